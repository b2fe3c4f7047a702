"""Real workers in subprocesses: each in its own process group, killed whatever happens."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult
from kombu import pools
from sqlalchemy import func, select

from rollout.settings import Settings
from rollout.store.models import Outcome
from rollout.store.session import Store, open_store
from tests.conftest import REDIS, PostgresServer, missing
from tests.homes import Engine, apply_home, make_engine, write_home
from tests.models import save_model
from workers.app import make_app

# Looking for doctests would import them, and they change what they import.
collect_ignore = ["hostile.py", "impatient.py", "telling.py"]

ROOT = Path(__file__).parents[2]
START_S = 60.0
ANSWER_S = 40.0


@dataclass
class Process:
    """A program under test and what it wrote."""

    popen: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str, count: int = 1, timeout_s: float = START_S) -> None:
        def there() -> bool:
            if self.popen.poll() is not None and self.text().count(words) < count:
                pytest.fail(f"ended with {self.popen.returncode}:\n{self.text()}")
            return self.text().count(words) >= count

        wait_until(there, timeout_s, lambda: f"no {words!r} in:\n{self.text()}")

    def ready(self) -> Process:
        self.wait_for(" ready.")
        return self

    def stop(self, timeout_s: float = 30.0) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout_s)

    def kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(30)


@dataclass
class Deployment:
    """A home, a database and a broker, and the programs that were started on them."""

    home: Path
    database_url: str
    broker_url: str
    processes: list[Process] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, database_url=self.database_url, broker_url=self.broker_url)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "ROLLOUT_HOME": str(self.home),
            "ROLLOUT_DATABASE_URL": self.database_url,
            "ROLLOUT_BROKER_URL": self.broker_url,
            # Two cores, and several programs on them.
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, *command: str, **environment: str) -> Process:
        log = self.home / f"{len(self.processes)}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=self.environment | environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        process = Process(popen, log)
        self.processes.append(process)
        return process

    def worker(self, *arguments: str, app: str = "workers.app", **environment: str) -> Process:
        name = f"w{len(self.processes)}@%h"
        usual = ["--without-mingle", "--without-gossip", "-l", "info", "-n", name]
        return self.start("-m", "celery", "-A", app, "worker", *usual, *arguments, **environment)

    def rollout(self, *arguments: str, **environment: str) -> Process:
        command = "from rollout.cli import main; main()"
        return self.start("-c", command, *arguments, **environment)

    def app(self) -> Celery:
        return make_app(self.settings)

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        store = open_store(self.database_url)
        try:
            yield store
        finally:
            store.close()

    def outcomes(self) -> dict[str, Outcome]:
        with self.store() as store, store.read() as session:
            rows = session.scalars(select(Outcome)).all()
            assert len(rows) == session.scalar(select(func.count(Outcome.id.distinct())))
            return {row.request_id: row for row in rows}

    def close(self) -> None:
        for process in self.processes:
            process.kill_group()


class Client:
    """Sends requests as a program of a user's would: by task name, plain JSON."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        if hasattr(app.backend, "client"):
            # `answers` asks for results. Had it subscribed to them, each would sign off when it is
            # collected, and try that for 20 s where the broker is gone by then.
            app.backend.on_task_call = lambda *_, **__: None

    def send(self, request_id: str, text: str, **fields: Any) -> AsyncResult:
        kwargs = {"request_id": request_id, "domain": "billing", "text": text} | fields
        return self.app.send_task("rollout.serve", kwargs=kwargs, queue="serve")

    def answers(self, results: list[AsyncResult], timeout_s: float = ANSWER_S) -> list[Any]:
        if hasattr(self.app.backend, "client"):
            # Reading is quick where waiting is not: a `get` after another one may sleep a second.
            wait_until(lambda: all(result.ready() for result in results), timeout_s)
            return [result.result for result in results]
        deadline = time.monotonic() + timeout_s
        return [result.get(timeout=max(0.1, deadline - time.monotonic())) for result in results]

    def burst(self, prefix: str, texts: list[str]) -> list[Any]:
        return self.answers(
            [self.send(f"{prefix}-{number}", text) for number, text in enumerate(texts)]
        )

    def close(self) -> None:
        close(self.app)


def close(app: Celery) -> None:
    """Close what `Celery.close` leaves open: connections of brokers and results."""
    app.backend.result_consumer.stop()
    if hasattr(app.backend, "client"):
        app.backend.client.connection_pool.disconnect()
    app.close()


def wait_until(
    there: Callable[[], bool],
    timeout_s: float = 30.0,
    why: Callable[[], str] = lambda: "it did not happen in time",
) -> None:
    deadline = time.monotonic() + timeout_s
    while not there():
        if time.monotonic() > deadline:
            pytest.fail(why())
        time.sleep(0.05)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The tiny random model with fitted exit heads."""
    return make_engine(save_model(tmp_path_factory.mktemp("tiny"), seed=0))


@pytest.fixture(scope="session")
def redis_database() -> Iterator[Callable[[], str]]:
    """Gives URLs of Redis databases that nobody else uses until the tests end."""
    admin = redis.Redis.from_url(REDIS, socket_connect_timeout=5)
    try:
        admin.ping()
    except redis.RedisError as error:
        missing("Redis", error, "ROLLOUT_TEST_REDIS_URL")
    base = REDIS.rsplit("/", 1)[0]
    taken: list[redis.Redis] = []

    def take() -> str:
        for number in range(1, 16):
            client = redis.Redis.from_url(f"{base}/{number}")
            if client.dbsize() == 0 and client.set("rollout:test:owner", os.getpid(), nx=True):
                taken.append(client)
                return f"{base}/{number}"
            client.close()
        pytest.fail("all 16 Redis databases are in use: flush those that tests left behind")

    yield take
    for client in taken:
        client.flushdb()
        client.close()
    admin.close()


@pytest.fixture(scope="session")
def deploy(
    tiny: Engine, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Deployment]]:
    """Makes a home with a policy live at half of the traffic. Kills what was started on it."""
    made: list[Deployment] = []

    def make(broker_url: str, database_url: str = "", **domain: Any) -> Deployment:
        home = tmp_path_factory.mktemp("home")
        (home / "var").mkdir()
        if not database_url:
            shutil.copy(sqlite_template, home / "var" / "rollout.db")
            database_url = f"sqlite:///{home / 'var' / 'rollout.db'}"
        write_home(home, tiny.folder, **domain)
        deployment = Deployment(home, database_url, broker_url)
        made.append(deployment)
        with deployment.store() as store:
            apply_home(store, home, [tiny.policy(tiny.heads.save(home / "var" / "heads"))])
        return deployment

    yield make
    for deployment in made:
        deployment.close()


@pytest.fixture(scope="session")
def postgres_database(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    name = postgres_server.borrow(postgres_template)
    yield postgres_server.url_of(name)
    postgres_server.give_back(name)


@pytest.fixture(scope="session")
def client_of() -> Iterator[Callable[[Deployment], Client]]:
    """One client a deployment, since kombu shares connections by broker URL."""
    clients: dict[Path, Client] = {}

    def make(deployment: Deployment) -> Client:
        if deployment.home not in clients:
            clients[deployment.home] = Client(deployment.app())
        return clients[deployment.home]

    yield make
    for client in clients.values():
        client.close()
    pools.reset()
