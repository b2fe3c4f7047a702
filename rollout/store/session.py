"""The store: one engine, two kinds of transaction. Embedded: SQLite; production: PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, TimeoutError
from sqlalchemy.exc import InterfaceError as SqlInterfaceError
from sqlalchemy.exc import OperationalError as SqlOperationalError
from sqlalchemy.orm import Session, sessionmaker

from rollout.values import RolloutError

SQLITE_BUSY_TIMEOUT_MS = 10_000
CONNECT_TIMEOUT_S = 3
UNACKNOWLEDGED_TIMEOUT_MS = 10_000
"""How long PostgreSQL may leave sent data unacknowledged before the connection counts as dead."""

# Both engines hide parameters: an error in a log must not carry a customer's text.

_WRITE = "rollout_write"


class StoreUnreachable(RolloutError):
    """The database does not answer, or refuses to read or write. The message has no password."""


class Store:
    """An engine and its two kinds of transaction.

    Use `write()` for everything that changes a row: on SQLite it takes the write lock at once
    (BEGIN IMMEDIATE), so that a reader that becomes a writer cannot fail half way.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.writer = engine.execution_options(**{_WRITE: True})
        self._read_session = sessionmaker(engine, expire_on_commit=False)
        self._write_session = sessionmaker(self.writer, expire_on_commit=False)

    @property
    def address(self) -> str:
        """The database URL with its password hidden."""
        return self.engine.url.render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write: committed at the end, rolled back by any exception.

        Raises:
            StoreUnreachable: the database does not answer or refuses.
        """
        with self.reaching(), self._write_session.begin() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads. Objects stay usable after it.

        Raises:
            StoreUnreachable: the database does not answer or refuses.
        """
        with self.reaching(), self._read_session() as session:
            yield session

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Turn the drivers' ways of saying "no database" into one error a user can read."""
        try:
            yield
        except (SqlOperationalError, SqlInterfaceError) as error:
            raise self._unreachable(str(error.orig)) from error
        except TimeoutError as error:
            raise self._unreachable("all pooled connections are in use") from error
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise self._unreachable(str(error.orig)) from error

    def close(self) -> None:
        """Close all idle connections."""
        self.engine.dispose()

    def _unreachable(self, why: str) -> StoreUnreachable:
        if self.engine.url.password:
            why = why.replace(str(self.engine.url.password), "***")
        return StoreUnreachable(
            f"the database {self.address} cannot be used: {' '.join(why.split())}; "
            "check that it runs and that ROLLOUT_DATABASE_URL names it"
        )


def open_store(url: str) -> Store:
    """A store for an SQLAlchemy URL. Connects on first use only; creates a SQLite file's folder.

    Raises:
        RolloutError: the URL cannot be read, names another kind of database, needs a driver that
            is not installed, or its folder cannot be made.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        return Store(_sqlite_engine(parsed))
    try:
        return Store(_postgresql_engine(parsed))
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise RolloutError(
            f"no driver for {parsed.drivername}: install early-exit-rollout[postgres] "
            "and use postgresql+psycopg://"
        ) from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        # The text itself may hold a password, so it is not repeated.
        raise RolloutError(
            "the database URL cannot be read: write sqlite:///PATH "
            "or postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME"
        ) from error
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    kind = parsed.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise RolloutError(f"database kind {kind!r} is not supported: use sqlite or postgresql")
    return parsed


def _sqlite_engine(url: URL) -> Engine:
    if url.database and url.database != ":memory:" and not url.database.startswith("file:"):
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RolloutError(f"cannot make the database's folder {folder}: {error}") from error
    engine = create_engine(url, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own BEGIN comes late and leaves DDL outside the transaction; _begin_sqlite
    # starts every transaction instead.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgresql_engine(url: URL) -> Engine:
    limits = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": UNACKNOWLEDGED_TIMEOUT_MS,
    }
    ours = {name: value for name, value in limits.items() if name not in url.query}
    return create_engine(url, pool_pre_ping=True, connect_args=ours, hide_parameters=True)
