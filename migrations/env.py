"""What Alembic runs for every command. The same revisions serve SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Literal

from alembic import context
from sqlalchemy import Connection, text

from rollout.settings import Settings
from rollout.store.models import Base, UtcDateTime
from rollout.store.session import Store, open_store

MIGRATION_LOCK = 0x726F6C6C6F7574
"""PostgreSQL advisory lock ("rollout" in ASCII): one migration at a time."""


def render_type(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Write our type decorator into new revisions as the plain type it stands for."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def migrate(connection: Connection) -> None:
    """Run the asked-for revisions in one transaction, alone."""
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": MIGRATION_LOCK})
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=True,
            compare_type=True,
            compare_server_default=True,
            transactional_ddl=True,
            render_item=render_type,
        )
        context.run_migrations()


def migrate_online(store: Store) -> None:
    with store.writer.connect() as connection:
        if not store.is_sqlite:
            migrate(connection)
            return
        # Batch mode rebuilds a table by dropping the old one, which with foreign keys on would
        # delete the rows that refer to it. The pragma has no effect inside a transaction.
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys = OFF")
        try:
            migrate(connection)
            broken = driver.execute("PRAGMA foreign_key_check").fetchall()
        finally:
            driver.execute("PRAGMA foreign_keys = ON")
        if broken:
            raise RuntimeError(f"{len(broken)} rows refer to missing rows, first: {broken[0]}")


def migrate_offline() -> None:
    """Print the SQL of `alembic upgrade --sql`, for databases that only a DBA may change."""
    context.configure(
        url=Settings().resolved_database_url,
        target_metadata=Base.metadata,
        literal_binds=True,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    migrate_offline()
else:
    given: Store | None = context.config.attributes.get("store")
    if given is not None:
        migrate_online(given)
    else:
        opened = open_store(Settings().resolved_database_url)
        try:
            migrate_online(opened)
        finally:
            opened.close()
