"""The same code on RabbitMQ with PostgreSQL, and on the embedded broker."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import Connection

from rollout.settings import Settings
from tests.models import LABELS, random_texts
from tests.workers.conftest import ROOT, START_S, Client, Deployment, Process, wait_until
from workers.embedded_broker import BrokerUnavailable, answers, embedded_broker

RABBITMQ = os.environ.get("ROLLOUT_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
TEXTS = random_texts(40, seed=13)


@pytest.fixture
def rabbitmq_url() -> Iterator[str]:
    """The broker, ours alone, with empty queues. Skipped where there is none, in CI too."""
    connection = Connection(RABBITMQ, connect_timeout=3)
    try:
        connection.connect()
    except OSError as error:
        pytest.skip(f"RabbitMQ cannot be reached ({error}); set ROLLOUT_TEST_RABBITMQ_URL")
    channel = connection.default_channel

    def delete_queues() -> None:
        for queue in ("serve", "shadow", "control"):
            channel.queue_delete(queue)

    with connection:
        # An exclusive queue is a lock: it goes with its connection.
        channel.queue_declare("rollout-test-owner", exclusive=True)
        delete_queues()
        yield RABBITMQ
        delete_queues()


def test_rabbitmq_with_postgresql_and_a_pool_of_threads(
    rabbitmq_url: str,
    postgres_database: str,
    deploy: Callable[..., Deployment],
    client_of: Callable[[Deployment], Client],
) -> None:
    deployment = deploy(rabbitmq_url, postgres_database, shadow={"rate": 0.5, "replay_share": 1.0})
    client = client_of(deployment)
    worker = deployment.worker("-P", "threads", "-c", "2", "-Q", "serve,shadow").ready()
    for answer in client.burst("rabbit", TEXTS):
        assert answer["answer"] in LABELS

    def rows() -> list[tuple[bool, bool | None, int]]:
        return [
            (row.shadow, row.replay_matches, row.batch_rows)
            for key, row in deployment.outcomes().items()
            if key.startswith("rabbit")
        ]

    wait_until(lambda: len(rows()) == 40 and all(match for shadow, match, _ in rows() if shadow))
    assert max(batch_rows for _, _, batch_rows in rows()) > 1
    assert worker.text().count("loop differs from its own forward by") == 1
    assert worker.stop() == 0


@pytest.fixture
def embedded(deploy: Callable[..., Deployment]) -> Deployment:
    return deploy("")


def test_an_embedded_home_serves_decides_and_ends_with_its_owner(
    embedded: Deployment, client_of: Callable[[Deployment], Client]
) -> None:
    socket = embedded.settings.broker_socket
    worker = embedded.rollout("worker", "-Q", "serve").ready()
    controller = embedded.rollout("controller").ready()
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    client = client_of(embedded)
    for answer in client.burst("own", TEXTS):
        assert answer["answer"] in LABELS
    asked = embedded.rollout("classify", "billing", "refund my invoice", "--request-id", "asked")
    assert asked.popen.wait(timeout=60) == 0
    assert asked.text().split()[0] in LABELS
    tick = client.app.send_task("rollout.tick", queue="control")
    assert client.answers([tick]) == [{"billing": "hold"}]
    assert "loaded on" not in controller.text(), "it decides; it needs no model"

    controller.popen.send_signal(signal.SIGINT)
    assert controller.popen.wait(timeout=30) == 0
    assert answers(socket), "the controller only used it"
    worker.popen.send_signal(signal.SIGINT)
    assert worker.popen.wait(timeout=30) == 0
    assert not answers(socket)
    for process in (worker, controller):
        assert "Traceback" not in process.text()
    unanswered = embedded.rollout("classify", "billing", "refund my invoice")
    assert unanswered.popen.wait(timeout=60) == 2
    assert "the broker does not answer" in unanswered.text()
    assert "Traceback" not in unanswered.text()


def test_the_broker_ends_when_the_program_with_forked_children_is_killed(
    embedded: Deployment,
) -> None:
    controller = embedded.rollout("controller").ready()
    controller.wait_for("beat: Starting...")
    children = _descendants(controller.popen.pid)
    assert len(children) >= 3, "beat, the watchdog and the server"
    os.kill(controller.popen.pid, signal.SIGKILL)
    controller.popen.wait(30)
    wait_until(lambda: not any(map(_runs, children)))
    assert not answers(embedded.settings.broker_socket)


PILOT = """
import time
from rollout.pilot.processes import running_workers
from rollout.settings import Settings
from workers.embedded_broker import embedded_broker
settings = Settings()
with embedded_broker(settings), running_workers(settings.home):
    time.sleep(600)
"""


def test_the_pilots_workers_end_at_once_when_it_is_killed_in_the_middle_of_requests(
    embedded: Deployment, client_of: Callable[[Deployment], Client]
) -> None:
    pilot = embedded.start("-c", PILOT)
    client = client_of(embedded)
    log = embedded.home / "var" / "worker-serve.log"
    wait_until(lambda: log.exists() and " ready." in log.read_text(), timeout_s=START_S)
    sent = [client.send(f"cut-{number}", text) for number, text in enumerate(TEXTS * 5)]
    client.answers(sent[:1])
    started = _descendants(pilot.popen.pid)
    assert len(started) >= 4, "two workers, the watchdog and the server"
    pilot.popen.kill()
    pilot.popen.wait(30)
    wait_until(lambda: not any(map(_runs, started)), timeout_s=10)


OWNER = """
import sys
from rollout.settings import Settings
from workers.embedded_broker import embedded_broker
with embedded_broker(Settings()):
    print("ready.", flush=True)
    sys.stdin.read()
"""


def test_a_worker_whose_broker_goes_while_it_answers_still_stops(
    embedded: Deployment, client_of: Callable[[Deployment], Client]
) -> None:
    owner = _ready(an_owner(embedded.home))
    client_of(embedded).send("orphan", "slowly")
    worker = embedded.worker("-P", "solo", "-Q", "serve", app="tests.workers.hostile")
    worker.wait_for("slowly begins")
    owner.kill()
    owner.communicate(timeout=30)
    worker.stop(timeout_s=25)


def an_owner(home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=ROOT,
        env=os.environ | {"ROLLOUT_HOME": str(home), "ROLLOUT_BROKER_URL": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts programs that hold the embedded broker of a home with a very long path."""
    home = tmp_path.joinpath(*["a-rather-long-name-for-a-folder"] * 6)
    home.mkdir(parents=True)
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(an_owner(home))
        return started[-1]

    yield start
    for owner in started:
        owner.kill()
        owner.communicate(timeout=30)


def _ready(owner: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    assert owner.stdout is not None
    assert select.select([owner.stdout], [], [], START_S)[0], "the broker did not start in time"
    assert owner.stdout.readline() == b"ready.\n"
    return owner


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    home = tmp_path.joinpath(*["a-rather-long-name-for-a-folder"] * 6)
    return Settings(home=home).broker_socket


def test_the_broker_ends_when_its_owner_exits(
    owners: Callable[[], subprocess.Popen[bytes]], socket: Path
) -> None:
    owner = _ready(owners())
    assert answers(socket)
    owner.communicate(timeout=30)
    assert not answers(socket)
    assert not socket.exists()


@pytest.mark.parametrize("victim", ["owner", "watchdog"])
def test_the_broker_ends_when_its_owner_or_its_watchdog_is_killed(
    owners: Callable[[], subprocess.Popen[bytes]], socket: Path, victim: str
) -> None:
    owner = _ready(owners())
    watchdog, server = _descendants(owner.pid)
    os.kill(owner.pid if victim == "owner" else watchdog, signal.SIGKILL)
    wait_until(lambda: not _runs(server))
    assert not answers(socket)


def test_a_second_program_uses_the_running_broker_and_leaves_it(
    owners: Callable[[], subprocess.Popen[bytes]], socket: Path
) -> None:
    _ready(owners())
    second = _ready(owners())
    assert _descendants(second.pid) == []
    second.communicate(timeout=30)
    assert answers(socket)


def test_programs_started_at_once_share_one_broker(
    owners: Callable[[], subprocess.Popen[bytes]], socket: Path
) -> None:
    started = [owners() for _ in range(3)]
    for owner in started:
        _ready(owner)
    servers = [pid for owner in started for pid in _descendants(owner.pid)]
    assert len([pid for pid in servers if "valkey" in _command(pid)]) == 1
    assert answers(socket)


def test_after_a_kill_the_next_owner_starts_a_broker_again(
    owners: Callable[[], subprocess.Popen[bytes]], socket: Path
) -> None:
    owner = _ready(owners())
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait(30)
    _ready(owners())
    assert answers(socket)


def test_a_socket_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, broker_url="")
    folder = settings.broker_socket.parent
    folder.mkdir()
    folder.chmod(0o755)
    try:
        with (
            pytest.raises(BrokerUnavailable, match="not a folder of this user alone"),
            embedded_broker(settings),
        ):
            pass
    finally:
        folder.rmdir()


def test_an_unknown_queue_is_refused(embedded: Deployment) -> None:
    worker: Process = embedded.rollout("worker", "-Q", "serve,sreve")
    assert worker.popen.wait(timeout=60) == 2
    assert "there is no queue 'sreve': choose from serve, shadow, control" in worker.text()


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, children) for found in (child, *_descendants(child))]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
