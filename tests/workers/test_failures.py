"""Killed and stopped workers: every accepted request is answered, and stored once."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

from tests.models import LABELS, random_texts
from tests.workers.conftest import Client, Deployment, wait_until

TEXTS = random_texts(40, seed=11)
HOSTILE = "tests.workers.hostile"


@pytest.fixture(scope="module")
def prefork(
    redis_database: Callable[[], str], deploy: Callable[..., Deployment], postgres_database: str
) -> Deployment:
    """Two children on PostgreSQL; the time limit is 6 s, the visibility time-out 3 s."""
    deployment = deploy(redis_database(), postgres_database)
    deployment.worker("-P", "prefork", "-c", "2", "-Q", "serve", app=HOSTILE).ready()
    return deployment


def test_prefork_children_answer_bursts_with_a_model_each(
    prefork: Deployment, client_of: Callable[[Deployment], Client]
) -> None:
    client = client_of(prefork)
    answers = client.burst("fork", TEXTS * 3)
    assert {answer["answer"] for answer in answers} <= set(LABELS)
    wait_until(lambda: len(prefork.outcomes()) == 120)
    rows = prefork.outcomes().values()
    assert max(row.batch_rows for row in rows) > 1
    assert len({row.worker for row in rows}) == 2
    loads = re.findall(r"ForkPoolWorker-\d\] model ", prefork.processes[0].text())
    assert len(loads) == 2


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
    first = deployment.worker("-P", "solo", "-Q", "serve", app=HOSTILE)
    sent = [client.send("slow", "slowly")]
    redis = client.app.backend.client
    # Alone: a kill while Redis hands the next message over would lose that one (workers.app).
    wait_until(lambda: redis.hlen("unacked") == 1, timeout_s=60)
    os.killpg(first.popen.pid, signal.SIGKILL)
    assert redis.hlen("unacked") == 1
    sent += [client.send(f"next-{number}", text) for number, text in enumerate(TEXTS)]
    deployment.worker("-P", "solo", "-Q", "serve", app="tests.workers.impatient").ready()
    for answer in client.answers(sent):
        assert answer["answer"] in LABELS
    wait_until(lambda: len(deployment.outcomes()) == len(sent))
