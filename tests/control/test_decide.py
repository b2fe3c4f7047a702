"""Each rule of the controller, and what holds for all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.control.alarms import wants_tighter
from rollout.control.commands import command
from rollout.control.decide import decide
from rollout.control.decision import CertifiedThreshold, Decision, Evidence
from rollout.control.schema import DomainSpec
from rollout.control.state import Comparison, DomainState, Monitor
from rollout.stats.promotion import PromotionTest, expected_more
from rollout.values import RolloutError
from tests.control.examples import (
    DAY,
    HOUR,
    MINUTE,
    MONDAY,
    QUIET,
    at_stage,
    billing,
    comparisons,
    seeing,
)

SPEC = billing()
LATER = MONDAY + HOUR
TIGHTER = CertifiedThreshold(policy_version=2, threshold=0.97, certified_risk=0.015, rows=900)


def ready(spec: DomainSpec = SPEC, stage: int = 1) -> DomainState:
    return seeing(at_stage(spec, stage), comparisons(400, 2, at=LATER))


def broken(spec: DomainSpec = SPEC, stage: int = 2, label: str = "invoice") -> DomainState:
    seen = comparisons(200, at=LATER) + comparisons(0, 20, at=LATER, label=label)
    return seeing(at_stage(spec, stage), seen)


def short_of_target(stage: int = 2) -> DomainState:
    """The target detector has alarmed, at a rate between the target and the floor."""
    seen = (comparisons(28) + comparisons(0, 1)) * 100
    state = at_stage(SPEC, stage)
    while not state.monitor.target.alarmed:
        state = seeing(state, seen)
    assert not state.monitor.floor.alarmed
    return state


# --- nothing to steer -------------------------------------------------------------------------


def test_a_domain_without_a_policy_holds() -> None:
    decision = decide(SPEC, DomainState.start(SPEC, MONDAY), QUIET, LATER)
    assert (decision.action, decision.rule) == ("hold", "no_policy")
    assert "rollout calibrate" in decision.reason


def test_an_aborted_domain_holds() -> None:
    decision = decide(SPEC, replace(ready(), mode="aborted"), QUIET, LATER)
    assert (decision.action, decision.rule) == ("hold", "aborted")


# --- alarms -----------------------------------------------------------------------------------


def test_a_drop_rolls_back_with_cooldown_and_incident() -> None:
    decision = decide(SPEC, broken(stage=3), QUIET, LATER)
    assert (decision.action, decision.incident) == ("roll_back", "rollback")
    after = decision.state_after
    assert after.stage == 0
    assert after.cooldown_until == LATER + 24 * HOUR
    assert after.monitor == Monitor.start(SPEC)
    assert "likely near 50 %" in decision.reason
    assert "rolled back from 25 % to 0 % of traffic" in decision.reason


def test_a_rollback_stops_at_the_declared_stage() -> None:
    spec = billing(rollback={"to": 0.05})
    assert decide(spec, broken(spec, stage=4), QUIET, LATER).state_after.stage == 2


def test_a_rollback_at_or_below_the_declared_stage_goes_to_shadow() -> None:
    spec = billing(rollback={"to": 0.05})
    assert decide(spec, broken(spec, stage=2), QUIET, LATER).state_after.stage == 0


@pytest.mark.parametrize(
    "waiting",
    [{"mode": "paused"}, {"cooldown_until": LATER + DAY}, {"stage_since": LATER}],
)
def test_rollback_stays_live_while_promotion_waits(waiting: dict[str, Any]) -> None:
    decision = decide(SPEC, replace(broken(), **waiting), QUIET, LATER)
    assert decision.action == "roll_back"
    assert decision.state_after.mode == waiting.get("mode", "active")


def test_rollback_stays_live_in_a_freeze_window_and_at_an_approval_gate() -> None:
    spec = billing(freeze=["Mon 00:00 - Tue 00:00 UTC"], approval={"before": [0.25]})
    assert decide(spec, broken(spec), QUIET, LATER).action == "roll_back"


def test_rollback_stays_live_without_new_evidence() -> None:
    decision = decide(SPEC, broken(), Evidence(oldest_unseen=LATER), LATER + 3 * DAY)
    assert decision.action == "roll_back"


def test_a_guarded_label_rolls_back_where_the_average_looks_good() -> None:
    spec = billing(guards={"refund": 0.995, "fraud": "never_early"})
    seen = comparisons(3_000) + comparisons(20, 4, label="refund")
    decision = decide(spec, seeing(at_stage(spec, 2), seen), QUIET, LATER)
    assert (decision.action, decision.rule) == ("roll_back", "guard_alarm")
    assert "'refund'" in decision.reason


def test_a_guard_counts_early_answers_only() -> None:
    spec = billing(guards={"refund": 0.995})
    fallbacks = [Comparison(MONDAY, True, False, "refund")] * 50
    monitor = Monitor.start(spec).update(fallbacks)
    assert monitor.guards == Monitor.start(spec).guards


def test_a_policy_that_fails_in_shadow_is_reported_once_and_waits_for_a_new_one() -> None:
    first = decide(SPEC, broken(stage=0), QUIET, LATER)
    assert (first.action, first.rule) == ("hold", "fails_in_shadow")
    assert first.incident == "fails_in_shadow"
    second = decide(SPEC, first.state_after, QUIET, LATER + MINUTE)
    assert (second.action, second.rule, second.incident) == ("hold", "fails_in_shadow", None)
    assert second.state_after == replace(first.state_after, decided_at=LATER + MINUTE)


# --- between target and floor -----------------------------------------------------------------


def test_short_of_target_tightens_where_a_stricter_threshold_is_certified() -> None:
    decision = decide(SPEC, short_of_target(), Evidence(tighter=TIGHTER), LATER)
    assert (decision.action, decision.threshold) == ("tighten", 0.97)
    assert decision.state_after.policy_version == 2
    assert decision.state_after.stage == 2
    assert decision.state_after.monitor == Monitor.start(SPEC)


def test_a_stricter_threshold_is_looked_for_only_where_it_would_be_used() -> None:
    short = short_of_target()
    assert wants_tighter(SPEC, short)
    assert not wants_tighter(SPEC, ready())
    assert not wants_tighter(SPEC, broken())
    assert not wants_tighter(SPEC, replace(short, mode="aborted"))
    assert not wants_tighter(SPEC, replace(short, failed_policy=short.policy_version))


def test_short_of_target_narrows_one_stage_where_none_is() -> None:
    decision = decide(SPEC, short_of_target(), QUIET, LATER)
    assert (decision.action, decision.incident) == ("narrow", "narrowing")
    assert decision.state_after.stage == 1


def test_short_of_target_in_shadow_fails_in_shadow() -> None:
    assert decide(SPEC, short_of_target(stage=0), QUIET, LATER).rule == "fails_in_shadow"


# --- no evidence ------------------------------------------------------------------------------


def test_a_domain_without_comparisons_holds() -> None:
    decision = decide(SPEC, at_stage(SPEC, 1), QUIET, LATER)
    assert decision.action == "hold"
    assert "no comparisons yet" in decision.reason
    assert decision.facts["agreement"] is None


def test_stale_evidence_never_promotes() -> None:
    unseen = Evidence(oldest_unseen=LATER + MINUTE)
    assert decide(SPEC, ready(), unseen, LATER + HOUR).action == "promote"
    decision = decide(SPEC, ready(), unseen, LATER + 3 * HOUR)
    assert (decision.action, decision.rule) == ("hold", "stale")


def test_blindness_steps_down_to_the_safe_share_and_is_not_called_a_regression() -> None:
    unseen = Evidence(oldest_unseen=LATER + MINUTE)
    for safe_share, stage in ((0, 0), (0.05, 2)):
        spec = billing(evidence={"safe_share": safe_share})
        decision = decide(spec, ready(spec, stage=4), unseen, LATER + 13 * HOUR)
        assert (decision.action, decision.rule, decision.incident) == ("narrow", "blind", "blind")
        assert decision.verdict == "error"
        assert decision.state_after.stage == stage
        assert decision.state_after.setbacks == ()
        assert "nothing is known to be wrong" in decision.reason
        again = decide(spec, decision.state_after, unseen, LATER + 40 * HOUR)
        assert (again.action, again.rule) == ("hold", "stale")


def test_blindness_counts_from_the_last_comparison_whenever_older_rows_arrive() -> None:
    late_row = Evidence(oldest_unseen=MONDAY - DAY)
    assert decide(SPEC, ready(stage=3), late_row, LATER + 3 * HOUR).rule == "stale"
    assert decide(SPEC, ready(stage=3), late_row, LATER + 12 * HOUR).rule == "blind"


def test_silence_is_not_blindness() -> None:
    decision = decide(SPEC, ready(stage=3), QUIET, LATER + 3 * DAY)
    assert (decision.action, decision.rule) == ("hold", "no_traffic")


@pytest.mark.parametrize(("stage", "killed"), [(0, False), (3, True)])
def test_blindness_narrows_nothing_where_nobody_is_served_early(stage: int, killed: bool) -> None:
    unseen = Evidence(oldest_unseen=LATER, killed=killed)
    assert decide(SPEC, ready(stage=stage), unseen, LATER + 2 * DAY).action == "hold"


# --- waiting ----------------------------------------------------------------------------------


def test_all_conditions_met_promotes_one_stage() -> None:
    decision = decide(SPEC, ready(), QUIET, LATER)
    assert (decision.action, decision.rule) == ("promote", "certified")
    after = decision.state_after
    assert (after.stage, after.stage_since) == (2, LATER)
    assert after.monitor.promotion.count == 0
    assert "chance that this promotion is wrong: at most 0.833 %" in decision.reason


def test_detectors_go_on_over_a_promotion() -> None:
    state = ready()
    after = decide(SPEC, state, QUIET, LATER).state_after
    assert after.monitor.target == state.monitor.target
    assert after.monitor.target.statistic > 0


@pytest.mark.parametrize(
    ("change", "evidence", "rule"),
    [
        ({"mode": "paused"}, QUIET, "paused"),
        ({}, Evidence(killed=True), "killed"),
        ({"cooldown_until": LATER + MINUTE}, QUIET, "cooldown"),
        ({"stage": 5}, QUIET, "top_stage"),
        ({"stage_since": LATER - 29 * MINUTE}, QUIET, "dwell"),
        ({"stage_since": LATER + MINUTE}, QUIET, "dwell"),
    ],
)
def test_what_waits_holds_and_says_why(
    change: dict[str, Any], evidence: Evidence, rule: str
) -> None:
    decision = decide(SPEC, replace(ready(), **change), evidence, LATER)
    assert (decision.action, decision.rule) == ("hold", rule)


def test_too_few_comparisons_hold_with_the_number_missing() -> None:
    decision = decide(SPEC, seeing(at_stage(SPEC, 1), comparisons(150)), QUIET, LATER)
    assert decision.rule == "min_evidence"
    assert "Needs 50 more comparisons" in decision.reason


def test_thin_evidence_holds_with_the_forecast_and_the_needed_e_value() -> None:
    decision = decide(SPEC, seeing(at_stage(SPEC, 1), comparisons(210, 3)), QUIET, LATER)
    assert decision.rule == "thin_evidence"
    more = decision.facts["comparisons_needed"]
    assert f"Needs about {more} more comparisons: 213 comparisons so far" in decision.reason
    assert "agreement 0.986" in decision.reason
    assert "certified above 0.95 needs e >= 120" in decision.reason


def test_the_very_comparison_that_reaches_the_needed_e_value_promotes() -> None:
    spec = billing(min_evidence=1)
    needed = expected_more(PromotionTest.start(0.95), spec.promotion_alpha, 1.0)
    assert needed is not None
    for count, action in ((needed - 1, "hold"), (needed, "promote")):
        state = seeing(at_stage(spec, 1), comparisons(count, at=LATER))
        assert decide(spec, state, QUIET, LATER).action == action


def test_certified_above_the_floor_but_below_target_holds() -> None:
    state = seeing(at_stage(SPEC, 1), (comparisons(43) + comparisons(0, 1)) * 50)
    assert not state.monitor.alarms
    decision = decide(SPEC, state, QUIET, LATER)
    assert (decision.action, decision.rule) == ("hold", "below_target")


def test_a_freeze_window_holds_in_its_own_time_zone() -> None:
    spec = billing(freeze=["Fri 18:00 - Mon 08:00 Asia/Tokyo"])
    in_tokyo_monday_seven = MONDAY.replace(hour=22) - DAY
    for now, action in ((in_tokyo_monday_seven, "hold"), (in_tokyo_monday_seven + HOUR, "promote")):
        state = seeing(at_stage(spec, 1, since=now - DAY), comparisons(400, at=now))
        assert decide(spec, state, QUIET, now).action == action


def test_an_approval_gate_waits_for_a_person_and_then_promotes() -> None:
    spec = billing(approval={"before": [0.05]})
    decision = decide(spec, ready(spec), QUIET, LATER)
    assert (decision.action, decision.rule) == ("hold", "approval")
    assert "rollout promote" in decision.reason
    approved = command(spec, decision.state_after, "promote", "aiko", "reviewed", LATER)
    assert approved.action == "approve"
    after = decide(spec, approved.state_after, QUIET, LATER)
    assert after.action == "promote"
    assert after.state_after.approved_stage is None


def test_alpha_is_shared_over_the_promotions_of_a_climb() -> None:
    spec = billing(stages=[0, 0.5, 1])
    facts = decide(spec, ready(spec), QUIET, LATER).facts
    assert facts["needed_e_value"] == pytest.approx(60)
    assert facts["error_budget"] == pytest.approx(
        {"alpha": 0.05, "spent": 0.1 / 3, "left": 0.05 / 3}
    )


def test_a_stage_that_the_spec_lacks_is_refused() -> None:
    with pytest.raises(RolloutError, match="apply the spec again"):
        decide(billing(stages=[0, 1]), at_stage(SPEC, 5), QUIET, LATER)


# --- what always holds ------------------------------------------------------------------------

FROZEN = billing(
    freeze=["Sat 00:00 - Mon 00:00 UTC"], approval={"before": [0.5]}, guards={"refund": 0.9}
)
moments = st.integers(0, 14 * 24 * 60).map(lambda minutes: MONDAY + minutes * MINUTE)
evidences = st.builds(
    Evidence,
    requests=st.integers(0, 100),
    comparisons=st.integers(0, 100),
    oldest_unseen=st.none() | moments,
    killed=st.booleans(),
    tighter=st.none() | st.just(TIGHTER),
)


@st.composite
def states(draw: st.DrawFn) -> DomainState:
    state = DomainState(
        stage=draw(st.integers(0, 5)),
        mode=draw(st.sampled_from(["active", "active", "paused", "aborted"])),
        policy_version=draw(st.sampled_from([1, 1, 1, None])),
        stage_since=draw(moments),
        cooldown_until=draw(st.none() | moments),
        approved_stage=draw(st.none() | st.integers(0, 5)),
        monitor=Monitor.start(FROZEN),
        failed_policy=draw(st.none() | st.just(1)),
    )
    for _ in range(draw(st.integers(0, 3))):
        label = draw(st.sampled_from(["invoice", "refund"]))
        matched, mismatched = draw(st.integers(0, 400)), draw(st.integers(0, 8))
        state = seeing(state, comparisons(matched, mismatched, at=draw(moments), label=label))
    return state


@given(states(), evidences, moments)
def test_deciding_is_pure_and_replays_from_its_stored_row(
    state: DomainState, evidence: Evidence, now: datetime
) -> None:
    decision = decide(FROZEN, state, evidence, now)
    stored = json.loads(
        json.dumps([FROZEN.to_json(), state.to_json(), evidence.to_json(), now.isoformat()])
    )
    replayed = decide(
        DomainSpec.from_json(stored[0]),
        DomainState.from_json(stored[1]),
        Evidence.from_json(stored[2]),
        datetime.fromisoformat(stored[3]),
    )
    assert replayed == decision
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision


@given(states(), evidences, moments)
def test_promotion_is_one_stage_and_only_when_nothing_forbids_it(
    state: DomainState, evidence: Evidence, now: datetime
) -> None:
    decision = decide(FROZEN, state, evidence, now)
    after = decision.state_after
    if decision.action != "promote":
        assert after.stage <= state.stage
        return
    assert after.stage == state.stage + 1
    assert state.mode == "active" and not evidence.killed and not state.monitor.alarms
    assert state.cooldown_until is None or state.cooldown_until <= now
    assert now.weekday() < 5
    assert after.stage != 4 or state.approved_stage == 4
    assert state.monitor.promotion.count >= FROZEN.min_evidence
    assert state.monitor.promotion.e_value >= 119.9
    assert now - state.stage_since >= FROZEN.dwell


@given(states(), evidences, moments)
def test_the_action_says_what_happens_to_the_stage(
    state: DomainState, evidence: Evidence, now: datetime
) -> None:
    decision = decide(FROZEN, state, evidence, now)
    moved = decision.state_after.stage - state.stage
    assert {
        "promote": moved == 1,
        "narrow": moved < 0,
        "roll_back": moved < 0,
        "tighten": moved == 0,
        "loosen": moved == 0,
        "hold": moved == 0,
    }[decision.action]
    if decision.action == "hold":
        noted = {
            "failed_policy": None,
            "decided_at": None,
            "error_since": None,
            "shadow_rate": None,
        }
        assert replace(decision.state_after, **noted) == replace(state, **noted)
    assert (decision.threshold is not None) == (decision.action in ("tighten", "loosen"))
    assert len(decision.reason) > 20 and decision.reason.endswith(".")


@given(states(), evidences, moments, st.integers(1, 300))
def test_one_more_matching_comparison_never_turns_a_promotion_into_less(
    state: DomainState, evidence: Evidence, now: datetime, more: int
) -> None:
    decision = decide(FROZEN, state, evidence, now)
    better = seeing(state, comparisons(more, at=now))
    if decision.action == "promote":
        assert decide(FROZEN, better, evidence, now).action == "promote"


@given(states(), evidences, moments)
def test_a_stage_is_never_promoted_without_comparisons(
    state: DomainState, evidence: Evidence, now: datetime
) -> None:
    empty = replace(state, monitor=Monitor.start(FROZEN))
    assert decide(FROZEN, empty, evidence, now).action in {"hold", "narrow"}


@given(states(), moments)
def test_a_stricter_threshold_is_wanted_exactly_where_it_changes_the_decision(
    state: DomainState, now: datetime
) -> None:
    without = decide(FROZEN, state, QUIET, now)
    with_it = decide(FROZEN, state, Evidence(tighter=TIGHTER), now)
    if wants_tighter(FROZEN, state):
        assert without.rule in {"short_of_target", "fails_in_shadow"}
        assert with_it.action == "tighten"
    elif state.failed_policy is None:
        assert with_it == without


@given(states(), st.timedeltas(timedelta(0), timedelta(days=30)))
def test_facts_are_json_without_nan(state: DomainState, wait: timedelta) -> None:
    decision = decide(FROZEN, state, QUIET, MONDAY + wait)
    json.dumps(decision.facts, allow_nan=False)
