"""The schema's revision: bring a database up to the code, or say what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from rollout.store.session import Store
from rollout.values import RolloutError

SCRIPTS = "migrations:"
"""The installed package `migrations`, wherever it lies."""


class SchemaError(RolloutError):
    """The database's tables are not those of this program."""


def alembic_config(store: Store | None = None) -> Config:
    """Alembic's settings for `store`, made in code: a wheel carries no alembic.ini."""
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    config.set_main_option("path_separator", "os")
    config.attributes["store"] = store
    return config


def newest_revision() -> str:
    """The revision this program needs."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None, "the package has no migrations"
    return head


def upgrade(store: Store, revision: str = "head") -> None:
    """Bring the tables up to `revision`, in one transaction.

    Raises:
        SchemaError: the revision is unknown, or the database is ahead of this program.
        StoreUnreachable: the database does not answer.
    """
    _refuse_newer(store)
    _run(store, command.upgrade, revision)


def downgrade(store: Store, revision: str) -> None:
    """Take the tables back to `revision` ("base": none), in one transaction. Data go with them.

    Raises:
        SchemaError: the revision is unknown, or the database is ahead of this program.
        StoreUnreachable: the database does not answer.
    """
    _refuse_newer(store)
    _run(store, command.downgrade, revision)


def current_revision(store: Store) -> str | None:
    """The revision the database is at; None where it has no tables of ours.

    Raises:
        StoreUnreachable: the database does not answer.
    """
    with store.reaching(), store.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def check_revision(store: Store) -> None:
    """Pass only where the database is at the revision this program needs.

    Raises:
        SchemaError: the database has no tables, is behind, or is ahead.
        StoreUnreachable: the database does not answer.
    """
    current = _refuse_newer(store)
    newest = newest_revision()
    if current is None:
        raise SchemaError(f"database {store.address} has no tables: run `rollout init`")
    if current != newest:
        raise SchemaError(
            f"database {store.address} is behind the code (at {current}, code needs {newest}): "
            "run `rollout migrate`"
        )


def _refuse_newer(store: Store) -> str | None:
    current = current_revision(store)
    if current is not None and current not in _known_revisions():
        raise SchemaError(
            f"database {store.address} is ahead of this program (unknown revision {current}): "
            "install the newer release"
        )
    return current


def _known_revisions() -> set[str]:
    scripts = ScriptDirectory.from_config(alembic_config())
    return {script.revision for script in scripts.walk_revisions()}


def _run(store: Store, change: Callable[[Config, str], None], revision: str) -> None:
    try:
        with store.reaching():
            change(alembic_config(store), revision)
    except CommandError as error:
        raise SchemaError(f"database {store.address}: {error}") from error
