"""What the app is configured to do, and what a worker refuses to start with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from rollout.settings import Settings
from tests.workers.conftest import ROOT, Deployment, Process
from workers.app import BATCH_ROWS, TASK_TIME_LIMIT_S, TICK_S, VISIBILITY_TIMEOUT_S, make_app
from workers.serve import serve
from workers.shadow import replay


def test_beat_sends_a_tick_a_minute_that_expires_with_the_next() -> None:
    schedule = make_app(Settings()).conf.beat_schedule
    assert schedule == {
        "tick": {"task": "rollout.tick", "schedule": TICK_S, "options": {"expires": TICK_S}}
    }


def test_tasks_are_json_late_acknowledged_and_limited_below_the_redelivery() -> None:
    conf = make_app(Settings()).conf
    assert (conf.task_serializer, conf.accept_content) == ("json", ["json"])
    assert conf.task_acks_late
    assert conf.task_time_limit == TASK_TIME_LIMIT_S < VISIBILITY_TIMEOUT_S
    assert replay.retry_backoff_max < VISIBILITY_TIMEOUT_S, "or Redis delivers the wait twice"
    assert conf.worker_prefetch_multiplier >= serve.flush_every == BATCH_ROWS


@pytest.mark.parametrize(
    ("broker", "backend"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("rediss://h:1/2", "rediss://h:1/2"),
        ("amqp://h//", "rpc://"),
    ],
)
def test_results_go_where_the_broker_can_hold_them(broker: str, backend: str) -> None:
    assert make_app(Settings(broker_url=broker)).conf.result_backend == backend


def test_a_client_waits_for_no_torch() -> None:
    code = "import workers.client, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.fixture(scope="module")
def refused(
    deploy: Callable[..., Deployment], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Process]:
    """All of them at once: each takes its time to import torch."""
    # Nobody listens there: a refusal comes before the broker is asked.
    broker = "redis://127.0.0.1:1/0"
    behind = deploy(broker)
    with behind.store() as store, store.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'older'"))
    broken_spec = deploy(broker)
    (broken_spec.home / "rollout.yaml").write_text("domains: {billing: {stagges: [0, 1]}}\n")
    no_model = deploy(broker)
    spec = (no_model.home / "rollout.yaml").read_text()
    folder = tmp_path_factory.mktemp("no-model")
    document = spec.replace(spec.split('"id": "')[1].split('"')[0], str(folder))
    (no_model.home / "rollout.yaml").write_text(document)
    sound = deploy(broker)
    return {
        "behind": behind.worker("-P", "solo", "-Q", "control"),
        "spec": broken_spec.worker("-P", "threads", "-Q", "serve"),
        "model": no_model.worker("-P", "prefork", "-c", "2", "-Q", "serve"),
        "pool": sound.worker(
            "-P", "custom", CELERY_CUSTOM_WORKER_POOL="tests.workers.greenlets:TaskPool"
        ),
    }


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("behind", "rollout: database"),
        ("spec", "did you mean"),
        ("model", "no config.json there"),
        ("pool", "rollout: pool 'greenlets' deadlocks with torch; use --pool=threads"),
    ],
)
def test_a_worker_that_cannot_serve_says_why_and_exits_with_2(
    refused: dict[str, Process], what: str, message: str
) -> None:
    process = refused[what]
    code = process.popen.wait(timeout=120)
    assert message in process.text()
    assert "Traceback" not in process.text()
    assert code == 2


def test_gevent_is_refused_where_it_is_installed(deploy: Callable[..., Deployment]) -> None:
    pytest.importorskip("gevent")
    process = deploy("redis://127.0.0.1:1/0").worker("-P", "gevent")
    assert process.popen.wait(timeout=120) == 2
    assert "pool 'gevent' deadlocks with torch" in process.text()


def test_home_may_be_long_and_the_socket_is_not(tmp_path: Path) -> None:
    home = tmp_path.joinpath(*["a-rather-long-name-for-a-folder"] * 12)
    socket = Settings(home=home).broker_socket
    assert len(os.fsencode(socket)) < 107
