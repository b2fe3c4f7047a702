"""Applying a spec changes what it says, never widens, and loses no race against the controller."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollout.control.spec import Spec, SpecError, load_spec
from rollout.control.state import DomainState
from rollout.store.catalog import load_policy, newest_version, save_policy
from rollout.store.domains import (
    AppliedDomain,
    UnknownDomain,
    apply,
    left_out,
    load_domain,
    plan,
    read_domain,
)
from rollout.store.ledger import LostRace, commit_decision, history, load_state, replace_state
from rollout.store.session import Store
from tests.store.examples import LABELS, NOW, a_policy, later
from tests.store.test_ledger import decide_to


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "labels.txt").write_text("\n".join(LABELS))
    (folder / "prompt.j2").write_text("{{ text }}\n")
    return folder


def spec(home: Path, domain: str = "billing", **keys: Any) -> Spec:
    task = {"labels": "labels.txt", "template": "prompt.j2"}
    document = {
        "model": {"id": "./model"},
        "cost": {"currency": "JPY", "accelerator_hour": 450},
        "domains": {domain: {"task": task, "stages": [0, 0.1, 0.5, 1]} | keys},
    }
    (home / "rollout.yaml").write_text(json.dumps(document))
    return load_spec(home / "rollout.yaml")


def applied(store: Store, home: Path, seconds: float = 0.0, **keys: Any) -> tuple[str, ...]:
    """Apply; what changed in the domain."""
    wanted = spec(home, **keys)
    with store.write() as session:
        changes = apply(session, wanted, home, actor="alice", now=later(seconds))
    return changes[0].lines


def live(store: Store, stage: int = 2) -> DomainState:
    """Put policy v1 live at a stage."""
    with store.write() as session:
        save_policy(session, a_policy(never_early=frozenset()), LABELS, {}, "tester", NOW)
        found = load_state(session, "billing")
        assert found is not None
        state = replace(found[0], stage=stage, policy_version=1)
        replace_state(session, "billing", state, NOW)
    return state


def standing(store: Store) -> DomainState:
    with store.read() as session:
        found = load_state(session, "billing")
    assert found is not None
    return found[0]


def actions(store: Store) -> list[str]:
    with store.read() as session:
        return [row.action for row in history(session, "billing", 100)]


def test_a_new_domain_starts_shadow_only_without_a_policy(store: Store, home: Path) -> None:
    lines = applied(store, home)
    assert "stages: [0, 0.1, 0.5, 1]" in lines
    assert "labels: invoice, refund, fraud_report" in lines
    state = standing(store)
    assert (state.stage, state.mode, state.policy_version) == (0, "active", None)


def test_applying_twice_changes_nothing(store: Store, home: Path) -> None:
    applied(store, home)
    before = standing(store)
    assert applied(store, home, seconds=60) == ()
    assert standing(store) == before
    assert actions(store) == ["apply"]


def test_a_plan_says_what_apply_then_changes_and_changes_nothing(store: Store, home: Path) -> None:
    applied(store, home)
    wanted = spec(home, dwell="1h", min_evidence=300)
    with store.write() as session:
        planned = plan(session, wanted, home)
    assert planned[0].lines == ("dwell: 30m -> 1h", "min_evidence: 200 -> 300")
    with store.read() as session:
        assert load_domain(session, "billing").spec.min_evidence == 200
    assert applied(store, home, dwell="1h", min_evidence=300) == planned[0].lines


def test_every_change_is_in_the_ledger_with_who_and_what(store: Store, home: Path) -> None:
    applied(store, home)
    applied(store, home, dwell="1h")
    with store.read() as session:
        row = history(session, "billing", 1)[0]
    assert (row.action, row.actor) == ("apply", "alice")
    assert row.reason == "applied by alice: dwell: 30m -> 1h"
    assert row.evidence["changes"] == ["dwell: 30m -> 1h"]
    assert row.evidence["spec"]["dwell"] == "1h"


def test_a_new_domains_row_names_its_promise_in_one_sentence(store: Store, home: Path) -> None:
    applied(store, home)
    with store.read() as session:
        row = history(session, "billing", 1)[0]
    assert row.reason.startswith("applied by alice: a new domain with ")
    assert "target 0.98, floor 0.95, stages 0, " in row.reason
    assert any(line.startswith("dwell: ") for line in row.evidence["changes"])


@pytest.mark.parametrize("stages", [[0, 0.2, 0.6, 1], [0, 1], [0, 0.05, 0.1, 0.5, 0.6, 1]])
def test_new_stages_never_widen_a_domain(store: Store, home: Path, stages: list[float]) -> None:
    applied(store, home)
    live(store, stage=2)
    applied(store, home, stages=stages)
    assert stages[standing(store).stage] <= 0.5
    assert standing(store).policy_version == 1


def test_new_labels_end_the_live_policy(store: Store, home: Path) -> None:
    applied(store, home)
    live(store)
    (home / "labels.txt").write_text("invoice\nrefund\ncomplaint")
    assert applied(store, home) == (
        "labels: added complaint; removed fraud_report; the live policy ends, calibrate again",
    )
    state = standing(store)
    assert (state.stage, state.policy_version) == (0, None)


def test_labels_in_another_order_end_the_live_policy(store: Store, home: Path) -> None:
    applied(store, home)
    live(store)
    (home / "labels.txt").write_text("\n".join(reversed(LABELS)))
    assert "order changed" in applied(store, home)[0]
    assert standing(store).policy_version is None


def test_a_new_template_ends_the_live_policy(store: Store, home: Path) -> None:
    applied(store, home)
    live(store)
    (home / "prompt.j2").write_text("mail: {{ text }}")
    assert applied(store, home) == (
        "the prompt template changed; the live policy ends, calibrate again",
    )
    assert standing(store).policy_version is None


def test_a_newline_at_the_end_of_the_template_is_no_change(store: Store, home: Path) -> None:
    applied(store, home)
    (home / "prompt.j2").write_text("{{ text }}\n\n")
    assert applied(store, home) == ()


def test_a_label_that_becomes_never_early_is_barred_at_once(store: Store, home: Path) -> None:
    applied(store, home)
    live(store)
    applied(store, home, guards={"fraud_report": "never_early"})
    state = standing(store)
    assert (state.stage, state.policy_version) == (2, 2)
    with store.read() as session:
        policy, labels = load_policy(session, "billing", 2)
        before, _ = load_policy(session, "billing", 1)
    assert [labels[label] for label in policy.never_early] == ["fraud_report"]
    assert policy == replace(before, version=2, never_early=policy.never_early)


def test_a_lifted_guard_stays_until_the_next_calibration(store: Store, home: Path) -> None:
    applied(store, home)
    live(store)
    applied(store, home, guards={"fraud_report": "never_early"})
    applied(store, home)
    assert standing(store).policy_version == 2
    with store.read() as session:
        assert newest_version(session, "billing") == 2


def test_an_aborted_domain_stays_aborted(store: Store, home: Path) -> None:
    applied(store, home)
    state = replace(live(store), mode="aborted", stage=0)
    with store.write() as session:
        replace_state(session, "billing", state, NOW)
    applied(store, home, agreement={"target": 0.99})
    assert standing(store).mode == "aborted"


def test_a_wrong_file_of_one_domain_leaves_all_as_they_were(store: Store, home: Path) -> None:
    applied(store, home)
    wanted = spec(home, dwell="1h")
    (home / "labels.txt").write_text("one")
    with pytest.raises(SpecError, match="at least two"), store.write() as session:
        apply(session, wanted, home, actor="alice", now=NOW)
    assert actions(store) == ["apply"]


def test_a_domain_that_left_the_file_is_named_and_runs_on(store: Store, home: Path) -> None:
    applied(store, home)
    wanted = spec(home, domain="claims")
    with store.write() as session:
        apply(session, wanted, home, actor="alice", now=NOW)
        assert left_out(session, wanted) == ["billing"]
    assert standing(store).mode == "active"


def test_an_unknown_domain_is_answered_with_the_nearest_or_the_known(
    store: Store, home: Path
) -> None:
    with store.read() as session, pytest.raises(UnknownDomain, match="none was applied yet"):
        load_domain(session, "billing")
    applied(store, home)
    with store.read() as session:
        with pytest.raises(UnknownDomain, match="did you mean billing?"):
            load_domain(session, "biling")
        with pytest.raises(UnknownDomain, match="known: billing"):
            load_domain(session, "zzz")


def test_a_guard_for_an_unknown_label_is_named_with_its_domain(home: Path) -> None:
    wanted = spec(home, guards={"fraud_reprt": "never_early"})
    with pytest.raises(SpecError, match=r"domains\.billing\.guards\.fraud_reprt: .* did you mean"):
        read_domain(home, "billing", wanted.domains["billing"])


def test_a_missing_template_is_named(home: Path) -> None:
    wanted = spec(home)
    (home / "prompt.j2").unlink()
    with pytest.raises(SpecError, match=r"prompt\.j2: there is no such prompt template"):
        read_domain(home, "billing", wanted.domains["billing"])


def test_a_stored_domain_reads_as_its_files_do(store: Store, home: Path) -> None:
    applied(store, home)
    with store.read() as session:
        loaded: AppliedDomain = load_domain(session, "billing")
    assert loaded == read_domain(home, "billing", spec(home).domains["billing"])


def test_apply_overwrites_no_rollback_that_is_decided_meanwhile(
    postgres_store: Store, home: Path
) -> None:
    store = postgres_store
    applied(store, home)
    state = live(store, stage=3)
    rolled_back = decide_to("roll_back", after=replace(state, stage=0))

    def roll_back() -> None:
        with store.write() as session:
            found = load_state(session, "billing")
            assert found is not None
            commit_decision(
                session,
                domain="billing",
                lock_version=found[1],
                decision=rolled_back,
                state_before=found[0],
                actor="controller",
                spec_hash="hash",
                now=later(1),
            )
            # Apply starts now, before this commits, and has to wait for it.
            applying.start()
            applying.join(timeout=0.5)
            assert applying.is_alive()

    applying = threading.Thread(target=lambda: applied(store, home, seconds=2, dwell="1h"))
    roll_back()
    applying.join()
    assert standing(store).stage == 0


def test_a_decision_from_before_an_apply_loses_its_race(store: Store, home: Path) -> None:
    applied(store, home)
    state = live(store, stage=2)
    with store.read() as session:
        found = load_state(session, "billing")
        assert found is not None
    applied(store, home, stages=[0, 0.1, 1])
    promoted = decide_to("promote", after=replace(state, stage=3))
    with pytest.raises(LostRace), store.write() as session:
        commit_decision(
            session,
            domain="billing",
            lock_version=found[1],
            decision=promoted,
            state_before=state,
            actor="controller",
            spec_hash="hash",
            now=later(1),
        )
    assert standing(store).stage == 1
