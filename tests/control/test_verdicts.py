"""Four verdicts, four actions; an error is neither a good sign nor a bad one, and alerts."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given

from rollout.control.decide import decide
from rollout.control.decision import Evidence
from rollout.control.state import DomainState
from rollout.control.verdicts import VERDICTS
from tests.control.examples import DAY, HOUR, MINUTE, MONDAY, QUIET, at_stage, billing, seeing
from tests.control.examples import comparisons as compared
from tests.control.test_decide import FROZEN, evidences, moments, states

SPEC = billing()
LATER = MONDAY + HOUR

ACTIONS = {
    "pass": {"promote", "loosen", "hold"},
    "fail": {"roll_back", "narrow", "tighten", "hold"},
    "inconclusive": {"hold"},
    "error": {"hold", "narrow"},
}


def ready(stage: int = 1) -> DomainState:
    return seeing(at_stage(SPEC, stage), compared(400, 2, at=LATER))


def split(state: DomainState, early: int, control: int) -> DomainState:
    keys = [(f"{number:08x}", number < early) for number in range(early + control)]
    random.Random(0).shuffle(keys)
    weight = state.stage_weight(SPEC)
    return replace(state, monitor=state.monitor.update([], 0, keys=keys, weight=weight))


@given(states(), evidences, moments)
def test_every_verdict_has_its_own_actions(
    state: DomainState, evidence: Evidence, now: datetime
) -> None:
    decision = decide(FROZEN, state, evidence, now)
    assert decision.verdict is not None
    assert decision.action in ACTIONS[decision.verdict]
    if decision.action == "hold" and decision.verdict in ("pass", "fail"):
        assert decision.rule in {"freeze", "approval", "fails_in_shadow"}
    if decision.verdict == "error":
        assert decision.incident == decision.rule
        assert (decision.action == "narrow") == (decision.rule == "blind")


@given(states(), evidences, moments)
def test_an_error_lasts_from_its_first_tick_to_its_last(
    state: DomainState, evidence: Evidence, now: datetime
) -> None:
    first = decide(FROZEN, state, evidence, now)
    since = first.state_after.error_since
    assert (since is not None) == (first.verdict == "error")
    second = decide(FROZEN, first.state_after, evidence, now + MINUTE)
    if first.verdict == second.verdict == "error":
        assert second.state_after.error_since == since


def test_every_rule_says_what_its_verdict_is() -> None:
    assert set(VERDICTS.values()) == set(ACTIONS)


# --- the monitor is broken --------------------------------------------------------------------


@pytest.mark.parametrize("detector", ["target", "floor"])
def test_a_statistic_that_is_no_number_is_an_error_and_never_a_promotion(detector: str) -> None:
    state = ready()
    levels = (math.nan,) * 6
    broken = replace(getattr(state.monitor, detector), levels=levels)
    state = replace(state, monitor=replace(state.monitor, **{detector: broken}))
    decision = decide(SPEC, state, QUIET, LATER)
    assert (decision.action, decision.rule, decision.verdict) == ("hold", "broken_monitor", "error")
    assert f"the detector '{detector}' is no longer a number" in decision.reason


def test_outcomes_that_cannot_be_folded_are_an_error_and_not_a_regression() -> None:
    decision = decide(SPEC, ready(stage=3), Evidence(fault="ValueError: a loss"), LATER)
    assert (decision.action, decision.verdict) == ("hold", "error")
    assert decision.incident == "broken_monitor"
    assert decision.state_after.stage == 3


def test_a_monitor_that_stays_broken_steps_down_blind() -> None:
    broken = Evidence(fault="ValueError: a loss")
    first = decide(SPEC, ready(stage=3), broken, LATER)
    almost = decide(SPEC, first.state_after, broken, LATER + 12 * HOUR - MINUTE)
    assert almost.action == "hold"
    blind = decide(SPEC, almost.state_after, broken, LATER + 12 * HOUR)
    assert (blind.action, blind.rule, blind.state_after.stage) == ("narrow", "blind", 0)
    assert "nothing is known to be wrong" in blind.reason
    assert "regress" not in blind.reason and "below" not in blind.reason
    assert blind.state_after.setbacks == ()


def test_an_error_that_passes_starts_its_time_anew() -> None:
    broken = Evidence(fault="ValueError: a loss")
    first = decide(SPEC, ready(stage=3), broken, LATER)
    well = decide(SPEC, first.state_after, QUIET, LATER + MINUTE)
    assert well.state_after.error_since is None


# --- the clock --------------------------------------------------------------------------------


def test_a_clock_that_went_back_is_an_error_and_no_age_is_negative() -> None:
    first = decide(SPEC, ready(), Evidence(killed=True), LATER + 3 * HOUR)
    back = decide(SPEC, first.state_after, QUIET, MONDAY - HOUR)
    assert (back.action, back.rule, back.verdict) == ("hold", "clock", "error")
    assert "went back by 5h" in back.reason
    assert back.facts["stage_age_s"] == 0.0
    again = decide(SPEC, back.state_after, QUIET, MONDAY - HOUR + MINUTE)
    assert (again.action, again.verdict) == ("hold", "inconclusive")


def test_clocks_that_differ_a_little_are_no_error() -> None:
    first = decide(SPEC, ready(), Evidence(killed=True), LATER)
    assert decide(SPEC, first.state_after, QUIET, LATER - MINUTE).action == "promote"


def test_rollback_stays_live_when_the_clock_went_back() -> None:
    state = seeing(at_stage(SPEC, 2), compared(100) + compared(0, 20))
    state = replace(state, decided_at=LATER + DAY)
    assert decide(SPEC, state, QUIET, LATER).action == "roll_back"


# --- the arms ---------------------------------------------------------------------------------


def test_arms_that_contradict_the_stage_are_an_error_and_hold() -> None:
    decision = decide(SPEC, split(ready(stage=3), early=200, control=1_800), QUIET, LATER)
    assert (decision.action, decision.rule) == ("hold", "sample_ratio_mismatch")
    assert (decision.verdict, decision.incident) == ("error", "sample_ratio_mismatch")
    assert "keys are early where 25 %" in decision.reason


def test_arms_as_the_stage_says_promote() -> None:
    decision = decide(SPEC, split(ready(stage=3), early=500, control=1_500), QUIET, LATER)
    assert decision.action == "promote"
    assert decision.state_after.monitor.arms.test.early == 0


def test_a_busy_customer_is_counted_once() -> None:
    state = at_stage(SPEC, 3)
    keys = [("ab" * 32, True)] * 5_000
    monitor = state.monitor.update([], 5_000, keys=keys, weight=0.25)
    assert monitor.arms.test.early == 1
    assert not monitor.arms.mismatch


def test_early_answers_at_a_shadow_only_stage_are_a_mismatch() -> None:
    assert split(at_stage(SPEC, 0), early=1, control=9).monitor.arms.mismatch
