"""A person overrules the controller: in the right order, with who and why in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run


def newest(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = run("history", "support", "--json").json[0]
    return row


def test_a_pause_is_recorded_with_who_and_why(
    run: Run, applied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "alice")
    found = run("pause", "support", "--why", "price change")
    assert found.code == 0
    assert found.out == (
        "Paused at 0 % of traffic; rollback stays live (by alice: price change).\n"
    )
    assert (newest(run)["action"], newest(run)["actor"]) == ("pause", "alice")


@pytest.mark.parametrize(
    ("before", "command", "error"),
    [
        ([], "resume", "cannot resume: the rollout is not paused, locked or aborted"),
        (["pause"], "pause", "cannot pause: the rollout is paused already"),
        (["abort"], "abort", "cannot abort: the rollout is aborted already"),
        ([], "promote", "there is no exit policy yet; run `rollout calibrate` first"),
    ],
)
def test_a_command_in_the_wrong_order_says_what_would_be_right(
    run: Run, applied: Path, before: list[str], command: str, error: str
) -> None:
    for step in before:
        assert run(step, "support").code == 0
    rows = len(run("history", "support", "--json").json)
    assert error in run(command, "support").error
    assert len(run("history", "support", "--json").json) == rows


def test_commands_tell_scripts_where_the_domain_now_stands(run: Run, applied: Path) -> None:
    told = run("abort", "support", "--why", "complaints", "--json").json
    assert (told["domain"], told["action"], told["mode"], told["stage"]) == (
        "support",
        "abort",
        "aborted",
        0.0,
    )
    assert "complaints" in told["reason"]
    assert run("kill-switch", "on", "--json").json == {"kill_switch": "on", "moved": True}


def test_an_aborted_domain_resumes(run: Run, applied: Path) -> None:
    run("abort", "support", "--why", "complaints")
    assert run("status", "--json").json[0]["mode"] == "aborted"
    assert "Resumed at 0 % of traffic" in run("resume", "support").out
    assert run("status", "--json").json[0]["mode"] == "active"


def test_the_kill_switch_turns_and_says_where_it_was_there_already(run: Run, applied: Path) -> None:
    assert run("kill-switch", "on", "--why", "incident").out == "kill switch is on\n"
    assert run("kill-switch", "on").out == "kill switch is on (it was before)\n"
    assert run("status", "--json").json[0]["killed"] is True
    assert run("kill-switch", "off").out == "kill switch is off\n"
    assert run("status", "--json").json[0]["killed"] is False
    assert [row["action"] for row in run("history", "support", "--json").json] == [
        "kill_switch",
        "kill_switch",
        "apply",
    ]


def test_the_kill_switch_works_before_any_domain_is_applied(run: Run, home: Path) -> None:
    assert run("kill-switch", "on").code == 0
