"""What goes wrong is said in one place, in words, with an exit code a script can tell apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from sqlalchemy import text

from rollout.cli import app, shell
from rollout.store.session import Store
from tests.cli.conftest import Run


def test_a_mistyped_command_is_answered_with_the_nearest(run: Run, folder: Path) -> None:
    error = run("stats").error
    assert error == "No such command 'stats'. Did you mean 'status'?\nsee `rollout --help`"


def test_a_mistyped_option_is_answered_with_the_nearest(run: Run, folder: Path) -> None:
    error = run("status", "--jsno").error
    assert "No such option: --jsno (Possible options: --json)" in error
    assert "see `rollout status --help`" in error


def test_a_missing_argument_is_named(run: Run, folder: Path) -> None:
    assert "Missing argument 'domain'" in run("pause").error


def test_a_wrong_choice_is_answered_with_the_choices(run: Run, folder: Path) -> None:
    assert "'onn' is not one of 'on', 'off'" in run("kill-switch", "onn").error


def test_a_number_out_of_range_is_refused(run: Run, folder: Path) -> None:
    assert "--port" in run("dashboard", "--port", "70000").error


@pytest.mark.parametrize("command", ["status", "plan", "apply", "explain x", "kill-switch on"])
def test_without_a_database_the_way_out_is_named_and_nothing_is_made(
    run: Run, folder: Path, command: str
) -> None:
    (folder / "rollout.yaml").write_text("")
    if command in ("plan", "apply"):
        (folder / "rollout.yaml").unlink()
        assert "`rollout init` writes one to start from" in run(command).error
    else:
        assert "run `rollout init`, or name the rollout's folder" in run(*command.split()).error
    assert not (folder / "var").exists()


def test_a_database_behind_the_program_is_refused(run: Run, home: Path, store: Store) -> None:
    with store.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    error = run("status").error
    assert "0000" in error


def test_a_database_without_tables_is_refused(run: Run, home: Path) -> None:
    (home / "var" / "rollout.db").write_bytes(b"")
    assert "has no tables: run `rollout init`" in run("status").error


@pytest.mark.parametrize("command", ["status", "migrate"])
def test_a_database_ahead_of_the_program_is_refused(
    run: Run, home: Path, store: Store, command: str
) -> None:
    with store.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999_later'"))
    assert "9999_later" in run(command).error
    with store.read() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "9999_later"


def test_a_database_that_does_not_answer_is_named(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLOUT_DATABASE_URL", "postgresql+psycopg://u:secret@127.0.0.1:1/rollout")
    error = run("status").error
    assert "127.0.0.1:1/rollout" in error
    assert "secret" not in error


def test_a_yaml_typo_is_named_with_file_line_and_key(run: Run, home: Path) -> None:
    spec = home / "rollout.yaml"
    spec.write_text(spec.read_text().replace("dwell:", "dwel:"))
    for command in ("validate", "plan", "apply"):
        error = run(command).error
        assert error == f"{spec}:17: domains.support.dwel: unknown key; did you mean dwell?"


def test_thresholds_out_of_range_are_refused(run: Run, home: Path) -> None:
    spec = home / "rollout.yaml"
    spec.write_text(spec.read_text().replace("target: 0.98", "target: 1.2"))
    assert "domains.support.agreement.target: 1.2 must lie strictly between" in run("plan").error


def test_labels_that_stand_twice_are_named_with_their_lines(run: Run, home: Path) -> None:
    (home / "labels" / "support.txt").write_text("refund\ninvoice\nrefund\n")
    error = run("apply").error
    assert "support.txt:3: label 'refund' already stands in line 1; remove one" in error


def test_a_missing_model_is_found_by_validate(run: Run, home: Path) -> None:
    (home / "model" / "config.json").unlink()
    assert "model.id:" in run("validate").error


@pytest.mark.parametrize(
    "command",
    ["pause", "resume", "promote", "abort", "history", "classify {} hello"],
)
def test_an_unknown_domain_is_answered_with_the_nearest(
    run: Run, applied: Path, command: str
) -> None:
    name, *rest = command.format("suport").split()
    error = run(name, *(rest or ["suport"])).error
    assert error == "domain 'suport' is unknown; did you mean support?"


def test_brackets_in_a_message_are_printed_as_they_are(run: Run, home: Path) -> None:
    spec = home / "rollout.yaml"
    spec.write_text(spec.read_text().replace("[0, 0.01, 0.05", "[0, 0.05, 0.01"))
    assert "domains.support.stages[2]: 0.01 is below the stage before it" in run("validate").error


def test_what_nobody_expected_is_one_line_and_says_how_to_see_more(
    run: Run, applied: Path, store: Store
) -> None:
    with store.write() as session:
        session.execute(text("DROP TABLE outcomes"))
        session.execute(text("UPDATE domains SET spec = '{}'"))
    found = run("status")
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith("error: unexpected ValidationError: ")
    assert found.err.endswith("(set ROLLOUT_DEBUG=1 for the traceback)\n")
    assert found.err.count("\n") == 1


def test_with_debug_the_traceback_is_shown(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLOUT_DEBUG", "1")
    found = run("status")
    assert found.code == 2
    assert "Traceback" in found.err
    assert "error: there is no database" in found.err


def test_without_a_command_the_help_is_shown(run: Run, folder: Path) -> None:
    found = run()
    assert (found.code, found.err) == (0, "")
    assert "Usage: rollout" in found.out


def test_the_version_is_the_package_s(run: Run, folder: Path) -> None:
    found = run("--version")
    assert (found.code, found.out) == (0, "rollout 0.1.0\n")


def test_a_user_without_an_account_acts_under_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_account() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", no_account)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert shell.actor() == "uid 4711"


@pytest.mark.parametrize("command", [command.name for command in app.registered_commands])
def test_every_command_has_an_example_in_a_paragraph_of_its_own(command: str) -> None:
    found = next(each for each in app.registered_commands if each.name == command)
    assert found.callback is not None and found.callback.__doc__ is not None
    last = found.callback.__doc__.strip().split("\n\n")[-1].strip()
    assert last.startswith("Example: `") and last.endswith("`")
    assert f"rollout {command}" in last or command in ("init", "migrate")


def test_every_option_says_what_it_does() -> None:
    group = typer.main.get_command(app)
    silent = [
        f"{name} {option.name}"
        for name, command in group.commands.items()  # type: ignore[attr-defined]
        for option in command.params
        if not option.help
    ]
    assert not silent
