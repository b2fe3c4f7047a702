"""status, history, explain: for people at a terminal, for scripts, and through a pipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollout.cli.shell import out
from rollout.control.state import DomainState
from rollout.store.catalog import save_policy
from rollout.store.domains import load_domain
from rollout.store.ledger import load_state, replace_state
from rollout.store.outcomes import insert_outcomes
from rollout.store.session import Store
from tests.cli.conftest import Run
from tests.store.examples import NOW, a_policy, a_trace, an_outcome

DOMAIN_KEYS = {
    "domain",
    "mode",
    "killed",
    "reason",
    "verdict",
    "decided_at",
    "facts",
    "open_incidents",
}


@pytest.fixture
def live(applied: Path, store: Store) -> Path:
    """Policy v1 live at a stage of 25 %."""
    with store.write() as session:
        labels = load_domain(session, "support").labels
        save_policy(session, a_policy(domain="support"), labels, {}, "tester", NOW)
        found = load_state(session, "support")
        assert found is not None
        values = found[0].to_json() | {"stage": 3, "policy_version": 1}
        replace_state(session, "support", DomainState.from_json(values), NOW)
    return applied


def answer(store: Store, **changes: Any) -> None:
    with store.write() as session:
        insert_outcomes(session, [an_outcome("request-1", domain="support", **changes)])


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr(out, "width", 160)
    return monkeypatch


def test_status_of_an_empty_store_says_what_to_do(run: Run, home: Path) -> None:
    found = run("status")
    assert found.code == 0
    assert found.out == "no domain is applied yet: edit rollout.yaml, then `rollout apply`\n"
    assert run("status", "--json").json == []


def test_status_through_a_pipe_is_one_plain_line_a_domain(run: Run, live: Path) -> None:
    run("pause", "support", "--why", "[INC-1] " + "long " * 60)
    header, line = run("status").out.splitlines()
    assert header.split("\t")[:3] == ["domain", "share", "mode"]
    assert line.split("\t")[:5] == ["support", "25 %", "paused", "v1", "not known yet"]
    assert "[INC-1] long" in line
    assert "\x1b" not in line


def test_status_in_a_wide_terminal_is_a_table(
    run: Run, live: Path, terminal: pytest.MonkeyPatch
) -> None:
    found = run("status").out
    assert "why not further" in found
    assert "─" in found


def test_status_in_a_narrow_terminal_is_a_paragraph_a_domain(
    run: Run, live: Path, terminal: pytest.MonkeyPatch
) -> None:
    terminal.setattr(out, "width", 60)
    found = run("status").out
    assert "25 %, active, policy v1" in found
    assert "─" not in found
    assert max(map(len, found.splitlines())) <= 60


def test_status_json_holds_what_the_page_shows(run: Run, live: Path) -> None:
    (row,) = run("status", "--json").json
    assert set(row) == DOMAIN_KEYS
    assert row["facts"]["stage"] == 0.25
    assert row["facts"]["agreement"] is None


def test_status_shows_the_kill_switch_for_every_domain(run: Run, live: Path) -> None:
    run("kill-switch", "on")
    assert "\tkill switch\t" in run("status").out


def test_watching_is_for_people(run: Run, applied: Path) -> None:
    assert "rollout status --json" in run("status", "--watch", "--json").error


def test_history_is_newest_first_and_says_who_and_why(run: Run, applied: Path) -> None:
    run("pause", "support", "--why", "price change")
    run("resume", "support")
    lines = run("history", "support", "--limit", "2").out.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["action", "resume", "pause"]
    assert "price change" in lines[2]


def test_history_json_holds_all_that_a_decision_rests_on(run: Run, applied: Path) -> None:
    run("pause", "support")
    row = run("history", "support", "--json").json[0]
    assert {"at", "action", "rule", "reason", "actor", "evidence", "repeats"} <= set(row)
    assert row["state_before"]["mode"] == "active"
    assert row["state_after"]["mode"] == "paused"


def test_an_unknown_request_is_explained_by_what_may_be_wrong(run: Run, applied: Path) -> None:
    assert "request 'nope' is not in the store: check the id" in run("explain", "nope").error


def test_an_early_exit_is_explained_by_its_confidence(run: Run, live: Path, store: Store) -> None:
    answer(
        store,
        arm="early",
        exit_layer=4,
        policy_exit_layer=4,
        layers_run=4,
        confidence=0.93,
        threshold=0.9,
        full_answer=None,
        agreement=None,
        inclusion_probability=0.1,
    )
    found = run("explain", "request-1").out
    assert "refund at layer 4 of 8, domain support" in found
    assert "why: confidence 0.9300 reached the threshold 0.9000 there" in found
    assert "shadow: not drawn (rate 10 %)" in found


def test_a_fallback_is_explained_by_its_reason(run: Run, live: Path, store: Store) -> None:
    answer(store, arm="early", fallback_reason="no exit was confident enough", agreement=None)
    found = run("explain", "request-1").out
    assert "refund at full depth (8 layers)" in found
    assert "why: no exit was confident enough" in found


def test_a_shadow_that_differs_is_shown_with_its_trace(run: Run, live: Path, store: Store) -> None:
    answer(
        store,
        arm="early",
        exit_layer=4,
        policy_exit_layer=4,
        confidence=0.93,
        threshold=0.9,
        shadow=True,
        full_answer="invoice",
        agreement=0.0,
        trace=a_trace(0.93),
    )
    found = run("explain", "request-1").out
    assert "shadow: the answer differs from full depth (invoice)" in found
    assert "4\tinvoice\t0.9300\t0.9000\texit" in found


def test_control_is_explained_by_its_arm_and_judges_the_policy(
    run: Run, live: Path, store: Store
) -> None:
    answer(store, trace=a_trace())
    found = run("explain", "request-1").out
    assert "why: the control arm always gets full depth" in found
    assert "shadow: what the policy would have said agrees with full depth (refund)" in found


def test_without_a_policy_there_was_nothing_to_compare(
    run: Run, applied: Path, store: Store
) -> None:
    answer(store, policy_version=None, agreement=None)
    found = run("explain", "request-1").out
    assert "no policy" in found
    assert "shadow: nothing to compare, there was no policy" in found


def test_explain_json_holds_request_trace_policy_and_decision(
    run: Run, live: Path, store: Store
) -> None:
    answer(store, trace=a_trace())
    found = run("explain", "request-1", "--json").json
    assert set(found) == {"outcome", "exits", "policy", "decision"}
    assert found["outcome"]["request_id"] == "request-1"
    assert [point["layer"] for point in found["exits"]] == [2, 4]
    assert found["policy"]["version"] == 1
