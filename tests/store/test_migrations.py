"""The schema comes from the migrations, on both databases, up and down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from rollout.store import schema
from rollout.store.models import Base
from rollout.store.outcomes import insert_outcomes
from rollout.store.session import Store, StoreUnreachable, open_store
from tests.store.examples import a_trace, an_outcome, with_domain

ROOT = Path(__file__).parents[2]
REVISIONS = [
    script.revision
    for script in ScriptDirectory.from_config(schema.alembic_config()).walk_revisions()
][::-1]


def test_there_is_one_head() -> None:
    scripts = ScriptDirectory.from_config(schema.alembic_config())
    assert scripts.get_heads() == [schema.newest_revision()]


def test_the_migrations_make_the_tables_of_the_models(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []
    command.check(schema.alembic_config(store))


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_revision_goes_up_down_and_up_again(empty_store: Store, revision: str) -> None:
    schema.upgrade(empty_store, revision)
    before = _shape(empty_store)
    schema.downgrade(empty_store, "-1")
    schema.upgrade(empty_store, revision)
    assert _shape(empty_store) == before


def test_going_all_the_way_down_leaves_nothing_behind(empty_store: Store) -> None:
    schema.upgrade(empty_store)
    schema.downgrade(empty_store, "base")
    assert set(_shape(empty_store)) == {"alembic_version"}


def test_upgrading_twice_changes_nothing(store: Store) -> None:
    with_domain(store)
    schema.upgrade(store)
    with store.read() as session:
        assert session.execute(text("SELECT count(*) FROM domains")).scalar_one() == 1


def test_a_migration_leaves_foreign_keys_on(sqlite_store: Store) -> None:
    schema.upgrade(sqlite_store)
    with sqlite_store.read() as session:
        assert session.execute(text("PRAGMA foreign_keys")).scalar_one() == 1


def test_a_rebuilt_sqlite_table_keeps_the_rows_that_refer_to_it(
    sqlite_store: Store, tmp_path: Path
) -> None:
    with_domain(sqlite_store)
    with sqlite_store.write() as session:
        insert_outcomes(session, [an_outcome("r1", trace=a_trace())])
    (tmp_path / "0999_rebuild.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision = '0999', {schema.newest_revision()!r}\n"
        "def upgrade():\n"
        "    with op.batch_alter_table('outcomes', recreate='always'):\n"
        "        pass\n"
    )
    config = schema.alembic_config(sqlite_store)
    folders = [str(ROOT / "migrations" / "versions"), str(tmp_path)]
    config.set_main_option("version_locations", os.pathsep.join(folders))
    command.upgrade(config, "0999")
    assert schema.current_revision(sqlite_store) == "0999"
    with sqlite_store.read() as session:
        assert session.execute(text("SELECT request_id FROM traces")).scalars().all() == ["r1"]


def test_an_empty_database_is_told_to_init(empty_store: Store) -> None:
    with pytest.raises(schema.SchemaError, match="has no tables: run `rollout init`"):
        schema.check_revision(empty_store)


def test_a_current_database_passes(store: Store) -> None:
    schema.check_revision(store)


def test_a_database_behind_the_code_is_told_to_migrate(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "newest_revision", lambda: "0999")
    with pytest.raises(
        schema.SchemaError, match=r"at \d+, code needs 0999\): run `rollout migrate`"
    ):
        schema.check_revision(store)


def test_a_database_ahead_of_the_code_asks_for_the_newer_release(store: Store) -> None:
    with store.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refused in (schema.check_revision, schema.upgrade):
        with pytest.raises(schema.SchemaError, match="unknown revision 9999.*newer release"):
            refused(store)


def test_an_unknown_target_revision_is_named(store: Store) -> None:
    with pytest.raises(schema.SchemaError, match="0777"):
        schema.upgrade(store, "0777")


def test_an_unreachable_database_is_reported_without_its_password() -> None:
    store = open_store("postgresql://someone:geheim@127.0.0.1:1/rollout")
    with pytest.raises(StoreUnreachable, match="127.0.0.1:1/rollout cannot be used") as caught:
        schema.check_revision(store)
    assert "geheim" not in str(caught.value)


def test_the_alembic_command_works_in_the_repository(sqlite_store: Store) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(ROOT / "pyproject.toml"), "current"],
        env={"ROLLOUT_DATABASE_URL": str(sqlite_store.engine.url), "PATH": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"{schema.newest_revision()} (head)")


def _shape(store: Store) -> dict[str, list[tuple[str, str, bool]]]:
    with store.engine.connect() as connection:
        inspector = inspect(connection)
        return {
            table: sorted(
                (column["name"], str(column["type"]), column["nullable"])
                for column in inspector.get_columns(table)
            )
            for table in inspector.get_table_names()
        }
