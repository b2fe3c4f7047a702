"""Killed and stopped workers: every accepted request is answered, and stored once."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable

import pytest

from rollout.store.models import Outcome
from tests.models import LABELS, random_texts
from tests.workers.conftest import Client, Deployment, wait_until
from workers.app import VISIBILITY_TIMEOUT_S

TEXTS = random_texts(40, seed=11)
HOSTILE = "tests.workers.hostile"


@pytest.fixture(scope="module")
def prefork(
    redis_database: Callable[[], str], deploy: Callable[..., Deployment], postgres_database: str
) -> Deployment:
    """Two children on PostgreSQL; the time limit is 6 s."""
    deployment = deploy(redis_database(), postgres_database)
    deployment.worker(
        "-P", "prefork", "-c", "2", "-Q", "serve", app=HOSTILE, OMP_NUM_THREADS="2"
    ).ready()
    return deployment


def test_prefork_children_answer_bursts_with_a_model_each(
    prefork: Deployment, client_of: Callable[[Deployment], Client]
) -> None:
    client = client_of(prefork)
    answers = client.burst("fork", TEXTS * 3)
    assert {answer["answer"] for answer in answers} <= set(LABELS)

    def rows() -> list[Outcome]:
        return [row for key, row in prefork.outcomes().items() if key.startswith("fork")]

    wait_until(lambda: len(rows()) == 120)
    assert max(row.batch_rows for row in rows()) > 1
    assert len({row.worker for row in rows()}) == 2
    loads = re.findall(r"ForkPoolWorker-\d\] model ", prefork.processes[0].text())
    assert len(loads) == 2


def test_prefork_children_take_one_torch_thread_and_die_with_their_parent(
    prefork: Deployment, client_of: Callable[[Deployment], Client]
) -> None:
    client = client_of(prefork)
    (told,) = client.answers([client.app.send_task("tests.tell", queue="serve")])
    assert told == {"torch_threads": 1, "dies_with_parent_by": signal.SIGTERM}


def test_a_request_that_hangs_or_kills_its_process_is_given_up_and_takes_no_other_along(
    prefork: Deployment, client_of: Callable[[Deployment], Client]
) -> None:
    client = client_of(prefork)
    sent = [client.send(f"mate-{number}", text) for number, text in enumerate(TEXTS[:4])]
    hostile = [client.send("killer", "die"), client.send("sleeper", "hang")]
    sent += [client.send(f"late-{number}", text) for number, text in enumerate(TEXTS[4:8])]
    for answer in client.answers(sent):
        assert answer["answer"] in LABELS
    for answer in client.answers(hostile):
        assert "ended its worker process twice" in answer["error"]
    assert not {"killer", "sleeper"} & set(prefork.outcomes())
    assert client.burst("after", TEXTS[:20])[0]["answer"] in LABELS


def test_stopping_answers_what_runs_and_leaves_the_rest_to_the_next_worker(
    prefork: Deployment, client_of: Callable[[Deployment], Client]
) -> None:
    client = client_of(prefork)
    running = client.send("running", "slowly")
    waiting = [client.send(f"waiting-{number}", text) for number, text in enumerate(TEXTS * 3)]
    wait_until(lambda: client.app.backend.client.llen("serve") == 0)
    assert prefork.processes[0].stop() == 0
    assert client.answers([running], timeout_s=1.0)[0]["answer"] in LABELS
    prefork.worker("-P", "solo", "-Q", "serve").ready()
    for answer in client.answers(waiting):
        assert answer["answer"] in LABELS
    wait_until(lambda: sum(key.startswith("waiting") for key in prefork.outcomes()) == 120)


def test_after_kill_9_in_mid_batch_every_request_is_answered_and_stored_once(
    redis_database: Callable[[], str],
    deploy: Callable[..., Deployment],
    client_of: Callable[[Deployment], Client],
) -> None:
    deployment = deploy(redis_database())
    client = client_of(deployment)
    redis = client.app.backend.client
    first = deployment.worker("-P", "solo", "-Q", "serve", app=HOSTILE, TEST_BATCH_WINDOW_S="2")
    held = ["slowly"] * 3 + TEXTS[:5]
    sent = [client.send(f"held-{number}", text) for number, text in enumerate(held)]
    # All are noted as held and none waits: a kill while Redis hands a message over loses that one
    # (workers.app), and so does a push before Redis has seen that the killed worker is gone.
    first.wait_for("slowly begins")
    assert redis.hlen("unacked") == len(held)
    first.kill_group()
    ours = str(redis.connection_pool.connection_kwargs["db"])
    wait_until(
        lambda: (
            not any(
                other["db"] == ours and other["cmd"] == "brpop" for other in redis.client_list()
            )
        )
    )
    assert redis.hlen("unacked") == len(held)
    taken = redis.zrange("unacked_index", 0, -1)
    deployment.worker("-P", "solo", "-Q", "serve", app="tests.workers.impatient").ready()
    assert client.burst("next", TEXTS)[0]["answer"] in LABELS
    assert {*taken} <= {*redis.hkeys("unacked")}, "they are not due yet"
    redis.zadd("unacked_index", dict.fromkeys(taken, time.time() - VISIBILITY_TIMEOUT_S))
    for answer in client.answers(sent):
        assert answer["answer"] in LABELS
    wait_until(lambda: len(deployment.outcomes()) == len(held) + len(TEXTS))
    wait_until(lambda: redis.hlen("unacked") == 0)
