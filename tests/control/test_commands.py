"""What people may do to a rollout, and what a new policy or spec does to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rollout.control.commands import command, policy_changed, spec_changed
from rollout.control.state import DomainState, Monitor
from rollout.values import RolloutError
from tests.control.examples import DAY, HOUR, MONDAY, at_stage, billing, comparisons, seeing

SPEC = billing()
LATER = MONDAY + HOUR


def test_pause_and_resume_change_the_mode_only() -> None:
    state = at_stage(SPEC, 2)
    paused = command(SPEC, state, "pause", "aiko", "audit", LATER)
    assert paused.state_after == replace(state, mode="paused")
    assert "aiko: audit" in paused.reason
    resumed = command(SPEC, paused.state_after, "resume", "aiko", "", LATER)
    assert resumed.state_after == state


def test_abort_sends_everybody_to_full_depth_until_resume() -> None:
    aborted = command(SPEC, at_stage(SPEC, 3), "abort", "aiko", "complaints", LATER)
    assert (aborted.state_after.stage, aborted.state_after.mode) == (0, "aborted")
    resumed = command(SPEC, aborted.state_after, "resume", "aiko", "", LATER).state_after
    assert (resumed.stage, resumed.mode) == (0, "active")
    assert resumed.monitor == Monitor.start(SPEC)


def test_promote_forces_one_stage_past_waiting_and_says_so() -> None:
    decision = command(SPEC, at_stage(SPEC, 1), "promote", "aiko", "deadline", LATER)
    assert (decision.action, decision.state_after.stage) == ("promote", 2)
    assert "Forced" in decision.reason and "without waiting" in decision.reason
    assert decision.facts["actor"] == "aiko"


def test_promote_at_a_gate_approves_first_and_forces_second() -> None:
    spec = billing(approval={"before": [0.05]})
    approved = command(spec, at_stage(spec, 1), "promote", "aiko", "", LATER)
    assert (approved.action, approved.state_after.stage) == ("approve", 1)
    assert approved.state_after.approved_stage == 2
    forced = command(spec, approved.state_after, "promote", "aiko", "", LATER)
    assert (forced.action, forced.state_after.stage) == ("promote", 2)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"policy_version": None}, "no exit policy"),
        ({"mode": "aborted"}, "rollout resume"),
        ({"cooldown_until": LATER + DAY}, "cooling down"),
        ({"stage": 5}, "last stage"),
    ],
)
def test_promote_is_refused_where_it_makes_no_sense(change: dict[str, Any], wrong: str) -> None:
    with pytest.raises(RolloutError, match=wrong):
        command(SPEC, replace(at_stage(SPEC, 1), **change), "promote", "aiko", "", LATER)


def test_promote_is_refused_during_an_alarm() -> None:
    state = seeing(at_stage(SPEC, 1), comparisons(0, 20))
    with pytest.raises(RolloutError, match="alarm of floor, target"):
        command(SPEC, state, "promote", "aiko", "", LATER)


@pytest.mark.parametrize(
    ("verb", "mode"),
    [("pause", "paused"), ("pause", "aborted"), ("resume", "active"), ("abort", "aborted")],
)
def test_a_command_without_effect_is_refused(verb: Any, mode: Any) -> None:
    with pytest.raises(RolloutError, match=f"cannot {verb}"):
        command(SPEC, replace(at_stage(SPEC, 1), mode=mode), verb, "aiko", "", LATER)


def test_a_new_policy_starts_in_shadow_with_evidence_of_its_own() -> None:
    state = seeing(at_stage(SPEC, 3), comparisons(300))
    after = policy_changed(SPEC, replace(state, approved_stage=4), 2, LATER)
    assert (after.stage, after.policy_version, after.approved_stage) == (0, 2, None)
    assert after.monitor == Monitor.start(SPEC)


def test_a_tightening_keeps_the_stage_but_no_evidence() -> None:
    state = seeing(at_stage(SPEC, 3), comparisons(300))
    after = policy_changed(SPEC, state, 2, LATER, tightens=True)
    assert (after.stage, after.policy_version) == (3, 2)
    assert after.monitor == Monitor.start(SPEC)


def test_a_new_policy_ends_a_failure_in_shadow() -> None:
    failed = replace(seeing(at_stage(SPEC, 0), comparisons(0, 20)), failed_policy=1)
    after = policy_changed(SPEC, failed, 2, LATER)
    assert not after.monitor.alarms


def test_a_changed_spec_never_widens() -> None:
    state = at_stage(SPEC, 3)
    after = spec_changed(SPEC, billing(stages=[0, 0.2, 0.4]), state, LATER)
    assert after.stage == 1
    assert after.monitor == Monitor.start(SPEC)


def test_a_changed_spec_keeps_evidence_that_is_still_measured_the_same() -> None:
    state = seeing(at_stage(SPEC, 3), comparisons(300))
    assert spec_changed(SPEC, billing(dwell="1h"), state, LATER) == state
    lower = billing(agreement={"floor": 0.94})
    assert spec_changed(SPEC, lower, state, LATER).monitor == Monitor.start(lower)


def test_a_started_domain_is_shadow_only() -> None:
    state = DomainState.start(SPEC, MONDAY)
    assert state.stage_weight(SPEC) == 0.0
