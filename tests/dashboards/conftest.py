"""The console over a seeded week, in the process and as a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import uvicorn
from fastapi.testclient import TestClient

from dashboards.app import create_app
from dashboards.serve import listen
from rollout.store.session import Store
from tests.reporting.seed import MONDAY, make_spec, seed_week

NOW = MONDAY + timedelta(hours=141)


def clock() -> datetime:
    return NOW


@pytest.fixture
def week_store(sqlite_store: Store) -> Store:
    seed_week(sqlite_store, make_spec())
    return sqlite_store


@pytest.fixture
def client(week_store: Store) -> Iterator[TestClient]:
    with TestClient(create_app(week_store, make_spec(), clock)) as client:
        yield client


@pytest.fixture
def server(week_store: Store) -> Iterator[str]:
    """The address of the console, served by uvicorn."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        create_app(week_store, make_spec(), clock), log_level="warning", timeout_graceful_shutdown=1
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    until = datetime.now(UTC) + timedelta(seconds=20)
    while not running.started and datetime.now(UTC) < until:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join(timeout=10)
    listening.close()
    assert not thread.is_alive()
