"""Fixtures on real components: SQLite and PostgreSQL made by the migrations, Redis.

A service that is missing skips its tests with the reason, and fails them where CI=true: a run that
tested half must not look like one that tested all.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import make_url

from rollout.store import schema
from rollout.store.models import Base
from rollout.store.session import Store, open_store

POSTGRES = os.environ.get("ROLLOUT_TEST_POSTGRES_URL", "postgresql+psycopg://127.0.0.1/postgres")
REDIS = os.environ.get("ROLLOUT_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")


def missing(what: str, error: Exception, variable: str) -> None:
    """Skip the test, or fail it in CI."""
    message = f"{what} cannot be reached ({' '.join(str(error).split())}); set {variable}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


class PostgresServer:
    """A server on which scratch databases come and go."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.admin = psycopg.connect(
            self._dsn(str(self.url.database)),
            autocommit=True,
            connect_timeout=5,
        )
        self._made: list[str] = []
        self._empty: list[str] = []

    def create(self, template: str = "template1") -> str:
        """The name of a new database."""
        name = f"rollout_test_{uuid.uuid4().hex[:16]}"
        self.admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        self._made.append(name)
        return name

    def drop(self, name: str) -> None:
        self.admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())
        self._made.remove(name)

    def borrow(self, template: str) -> str:
        """A migrated, empty database: one that a test gave back, or a copy of the template."""
        return self._empty.pop() if self._empty else self.create(template)

    def give_back(self, name: str) -> None:
        """Empty a database for the next test, or drop it where its tables were changed.

        Emptying takes milliseconds where making and dropping takes a disk flush each.
        """
        try:
            with psycopg.connect(self._dsn(name), connect_timeout=5) as connection:
                found = connection.execute(
                    "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
                ).fetchall()
                at = connection.execute("SELECT version_num FROM alembic_version").fetchall()
                if {row[0] for row in found} != {*Base.metadata.tables, "alembic_version"}:
                    raise psycopg.ProgrammingError("other tables")
                if at != [(schema.newest_revision(),)]:
                    raise psycopg.ProgrammingError("another revision")
                connection.execute("SET lock_timeout = '2s'")
                for table in reversed(Base.metadata.sorted_tables):
                    connection.execute(f'DELETE FROM "{table.name}"'.encode())
        except psycopg.Error:
            self.drop(name)
        else:
            self._empty.append(name)

    def _dsn(self, name: str) -> str:
        url = self.url.set(drivername="postgresql", database=name)
        return url.render_as_string(hide_password=False)

    def url_of(self, name: str) -> str:
        return self.url.set(database=name).render_as_string(hide_password=False)

    def close(self) -> None:
        for name in list(self._made):
            self.drop(name)
        self.admin.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    try:
        server = PostgresServer(POSTGRES)
    except psycopg.OperationalError as error:
        missing("PostgreSQL", error, "ROLLOUT_TEST_POSTGRES_URL")
        raise
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty scratch database, dropped afterwards."""
    name = postgres_server.create()
    yield postgres_server.url_of(name)
    postgres_server.drop(name)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """A migrated database to copy: copying takes a tenth of migrating."""
    name = postgres_server.create()
    store = open_store(postgres_server.url_of(name))
    schema.upgrade(store)
    store.close()
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "rollout.db"
    store = open_store(f"sqlite:///{path}")
    schema.upgrade(store)
    store.close()
    return path


@pytest.fixture
def sqlite_store(sqlite_template: Path, tmp_path: Path) -> Iterator[Store]:
    """A migrated SQLite store."""
    shutil.copy(sqlite_template, tmp_path / "rollout.db")
    store = open_store(f"sqlite:///{tmp_path / 'rollout.db'}")
    yield store
    store.close()


@pytest.fixture
def postgres_store(postgres_server: PostgresServer, postgres_template: str) -> Iterator[Store]:
    """A migrated, empty PostgreSQL store."""
    name = postgres_server.borrow(postgres_template)
    store = open_store(postgres_server.url_of(name))
    yield store
    store.close()
    postgres_server.give_back(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Store:
    """A migrated store, once on each database."""
    kind = "sqlite_store" if request.param == "sqlite" else "postgres_store"
    found: Store = request.getfixturevalue(kind)
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store without tables, once on each database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture(scope="session")
def redis_url() -> str:
    client = redis.Redis.from_url(REDIS, socket_connect_timeout=5)
    try:
        client.ping()
    except redis.RedisError as error:
        missing("Redis", error, "ROLLOUT_TEST_REDIS_URL")
    finally:
        client.close()
    return REDIS
