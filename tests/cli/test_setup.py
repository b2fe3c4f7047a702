"""init, migrate, validate, plan, apply: what they write, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout.store.schema import check_revision, downgrade
from rollout.store.session import Store, open_store
from tests.cli.conftest import Run

STARTING = ("rollout.yaml", "labels/support.txt", "prompts/support.j2")


def test_init_writes_all_that_rollout_yaml_names_and_a_database(run: Run, folder: Path) -> None:
    found = run("init")
    assert (found.code, found.err) == (0, "")
    for name in STARTING:
        assert (folder / name).exists()
        assert f"written  {folder / name}\n" in found.out
    assert "rollout.db is ready" in found.out
    assert run("apply").code == 0


def test_init_twice_changes_nothing(run: Run, folder: Path) -> None:
    run("init")
    (folder / "rollout.yaml").write_text("# mine")
    found = run("init")
    assert found.code == 0
    assert f"kept     {folder / 'rollout.yaml'} (it was there)" in found.out
    assert (folder / "rollout.yaml").read_text() == "# mine"


def test_init_keeps_the_files_of_a_folder_that_is_in_use(run: Run, folder: Path) -> None:
    (folder / "labels").mkdir()
    (folder / "labels" / "support.txt").write_text("mine\nyours")
    run("init")
    assert (folder / "labels" / "support.txt").read_text() == "mine\nyours"
    assert (folder / "rollout.yaml").exists()


def test_init_puts_no_labels_beside_a_rollout_yaml_of_one_s_own(run: Run, folder: Path) -> None:
    (folder / "rollout.yaml").write_text("# mine")
    run("init")
    assert not (folder / "labels").exists()


def test_init_says_where_it_cannot_write(run: Run, folder: Path) -> None:
    (folder / "labels").write_text("a file where a folder should be")
    found = run("init")
    assert found.code == 2
    assert found.err.startswith(f"error: cannot write {folder / 'labels'}")


def test_init_and_apply_take_postgresql_by_one_variable(
    run: Run, folder: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLOUT_DATABASE_URL", postgres_url)
    assert "postgresql" in run("init").out
    assert run("apply").code == 0
    assert run("status", "--json").json[0]["domain"] == "support"
    assert not (folder / "var" / "rollout.db").exists()


def test_migrate_brings_a_database_up(run: Run, folder: Path, tmp_path: Path) -> None:
    run("init")
    store = open_store(f"sqlite:///{folder / 'var' / 'rollout.db'}")
    downgrade(store, "base")
    assert "run `rollout init`" in run("status").error
    assert run("migrate").code == 0
    check_revision(store)
    store.close()


def test_validate_says_how_many_domains_are_valid(run: Run, home: Path) -> None:
    found = run("validate")
    assert (found.code, found.out) == (0, f"{home / 'rollout.yaml'} is valid: 1 domain\n")


def test_plan_shows_every_key_of_a_new_domain_and_changes_nothing(run: Run, home: Path) -> None:
    found = run("plan")
    assert found.out.startswith("support would change:\n")
    assert "  stages: [0, 0.01, 0.05, 0.25, 0.5, 1]\n" in found.out
    assert run("status", "--json").json == []


def test_apply_twice_has_nothing_to_change(run: Run, applied: Path) -> None:
    assert run("apply").out == "support: nothing to change\n"
    assert run("plan").out == "support: nothing would change\n"
    assert [row["action"] for row in run("history", "support", "--json").json] == ["apply"]


def test_plan_and_apply_say_the_same_and_both_are_recorded(run: Run, applied: Path) -> None:
    spec = applied / "rollout.yaml"
    spec.write_text(spec.read_text().replace("dwell: 30m", "dwell: 1h"))
    changes = {"support": ["dwell: 30m -> 1h"]}
    assert run("plan", "--json").json == changes
    assert run("apply", "--json").json == changes
    assert run("apply", "--json").json == {"support": []}
    rows = run("history", "support", "--json").json
    assert [row["action"] for row in rows] == ["apply", "plan", "apply"]


def test_a_domain_that_left_the_file_is_noted_on_standard_error(run: Run, applied: Path) -> None:
    spec = applied / "rollout.yaml"
    spec.write_text(spec.read_text().replace("  support:", "  claims:"))
    found = run("plan", "--json")
    assert set(found.json) == {"claims"}
    assert "note: support is no longer in rollout.yaml and runs on as last applied" in found.err


def test_a_refused_apply_leaves_the_domain_as_it_was(run: Run, applied: Path, store: Store) -> None:
    before = run("status", "--json").json[0]["facts"]["stage"]
    (applied / "labels" / "support.txt").write_text("one\none\n")
    assert run("apply").code == 2
    assert run("status", "--json").json[0]["facts"]["stage"] == before
    assert len(run("history", "support", "--json").json) == 1
