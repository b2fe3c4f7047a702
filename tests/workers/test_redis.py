"""Workers on Redis and SQLite: one solo worker, shared."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from rollout.serving.assignment import arm_of
from rollout.store.ledger import history
from tests.models import LABELS, random_texts
from tests.store.examples import NOW
from tests.workers.conftest import Client, Deployment, wait_until

TEXTS = random_texts(40, seed=9)


@pytest.fixture(scope="module")
def solo(redis_database: Callable[[], str], deploy: Callable[..., Deployment]) -> Deployment:
    deployment = deploy(redis_database(), shadow={"rate": 0.5, "replay_share": 1.0})
    deployment.worker(
        *("-P", "solo", "-Q", "serve,shadow,control"),
        app="tests.workers.telling",
        OMP_NUM_THREADS="2",
    ).ready()
    return deployment


@pytest.fixture
def client(solo: Deployment, client_of: Callable[[Deployment], Client]) -> Client:
    return client_of(solo)


def test_a_solo_worker_keeps_its_torch_threads_and_outlives_the_shell_that_started_it(
    client: Client,
) -> None:
    (told,) = client.answers([client.app.send_task("tests.tell", queue="control")])
    assert told == {"torch_threads": 2, "dies_with_parent_by": 0}


def test_a_burst_is_answered_in_batches_and_stored(solo: Deployment, client: Client) -> None:
    answers = client.burst("burst", TEXTS)
    for number, answer in enumerate(answers):
        assert answer["request_id"] == f"burst-{number}"
        assert answer["answer"] in LABELS
        assert answer["arm"] == arm_of("billing", f"burst-{number}", 0.5)
    wait_until(lambda: sum(key.startswith("burst") for key in solo.outcomes()) == len(TEXTS))
    rows = [row for key, row in solo.outcomes().items() if key.startswith("burst")]
    assert max(row.batch_rows for row in rows) > 1
    assert {row.arm for row in rows} == {"early", "control"}


def test_shadows_are_replayed_from_scratch_by_another_task(
    solo: Deployment, client: Client
) -> None:
    client.burst("replayed", TEXTS)

    def shadows() -> list[bool | None]:
        return [
            row.replay_matches
            for key, row in solo.outcomes().items()
            if key.startswith("replayed") and row.shadow
        ]

    wait_until(lambda: bool(shadows()) and None not in shadows())
    assert set(shadows()) == {True}


def test_the_same_request_sent_again_gets_its_answer_and_no_second_row(
    solo: Deployment, client: Client
) -> None:
    first = client.answers([client.send("again", TEXTS[0])])
    wait_until(lambda: "again" in solo.outcomes())
    assert client.answers([client.send("again", TEXTS[0])]) == [
        first[0] | {"confidence": solo.outcomes()["again"].confidence}
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": ""}, "the text is empty"),
        ({"domain": "biling"}, "did you mean 'billing'"),
        ({"text": "refund " * 500}, "shorten the text"),
        ({"request_id": "x" * 300}, "give 1 to 200"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
    ],
)
def test_a_bad_request_is_answered_with_its_error(
    client: Client, fields: dict[str, str], message: str
) -> None:
    good = client.send(f"good-{time.monotonic()}", TEXTS[1])
    sent = {"request_id": "bad", "domain": "billing", "text": "a"} | fields
    bad = client.app.send_task("rollout.serve", kwargs=sent, queue="serve")
    answers = client.answers([bad, good])
    assert message in answers[0]["error"]
    assert answers[1]["answer"] in LABELS


def test_a_message_without_fields_is_answered_too(client: Client) -> None:
    answers = client.answers(
        [client.app.send_task("rollout.serve", args=["refund"], queue="serve")]
    )
    assert "does not have the expected fields" in answers[0]["error"]


def test_a_pickled_message_is_not_opened(solo: Deployment, client: Client) -> None:
    client.app.send_task(
        "rollout.serve", kwargs={"request_id": "pickled"}, queue="serve", serializer="pickle"
    )
    solo.processes[0].wait_for("Refusing to deserialize")
    assert client.burst("after-pickle", TEXTS[:1])[0]["answer"] in LABELS
    assert "pickled" not in solo.outcomes()


def test_a_tick_decides_for_every_domain_at_the_time_it_is_given(
    solo: Deployment, client: Client
) -> None:
    client.burst("ticked", TEXTS)
    at = NOW + timedelta(days=30)
    tick = client.app.send_task("rollout.tick", args=[at.isoformat()], queue="control")
    assert client.answers([tick]) == [{"billing": "hold"}]
    with solo.store() as store, store.read() as session:
        (row,) = history(session, "billing", 1)
    assert (row.actor, row.last_at) == ("controller", at)


def test_what_the_worker_does_is_in_its_log(solo: Deployment, client: Client) -> None:
    client.answers([client.app.send_task("rollout.tick", queue="control")])
    log = solo.processes[0]
    log.wait_for("domain billing: hold:")
    assert "loop differs from its own forward by" in log.text()
    assert "Loading weights" not in log.text() and "SQLiteImpl" not in log.text()
