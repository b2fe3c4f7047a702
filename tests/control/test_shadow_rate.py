"""The shadow rate rises where something stirs, falls where all is calm, and stays in bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.control.decide import decide
from rollout.control.decision import Evidence, Signal
from rollout.control.shadow_rate import shadow_rate
from rollout.control.state import DomainState, Monitor
from tests.control.examples import HOUR, MINUTE, MONDAY, QUIET, at_stage, billing, seeing
from tests.control.examples import comparisons as compared
from tests.control.test_decide import evidences, states

SPEC = billing(shadow={"rate": 0.1, "min": 0.02, "max": 0.8, "budget": 0.8})
LATER = MONDAY + HOUR
MOVED = Evidence(signals=(Signal("exit depth", 0.4, 0.1), Signal("length", 0.01, 0.1)))


def calm(stage: int = 5) -> DomainState:
    seen = compared(300, at=LATER) + compared(0, 1, at=LATER) + compared(300, at=LATER)
    return seeing(at_stage(SPEC, stage), seen)


def test_it_begins_at_the_specs_rate() -> None:
    assert shadow_rate(SPEC, at_stage(SPEC, 1), QUIET, LATER) == (0.1, "evidence is thin")


def test_it_rises_at_once_where_a_signal_moves_and_says_which() -> None:
    rate, reason = shadow_rate(SPEC, calm(), MOVED, LATER)
    assert rate == 0.8
    assert reason == "the traffic changed (exit depth)"


def test_it_rises_where_a_detector_nears_its_alarm() -> None:
    state = calm()
    while state.monitor.target.statistic < 2_000:
        state = seeing(state, compared(1, 1, at=LATER))
    assert not state.monitor.alarms
    rate, reason = shadow_rate(SPEC, state, QUIET, LATER)
    assert (rate, reason) == (0.8, "the detector 'target' nears its alarm")


def test_it_falls_by_halves_when_all_is_calm() -> None:
    state, rates, now = replace(calm(), shadow_rate=0.8), [], LATER
    for _ in range(8):
        now += MINUTE
        state = decide(SPEC, state, QUIET, now).state_after
        rates.append(state.shadow_rate)
    assert rates == pytest.approx([0.4, 0.2, 0.1, 0.05, 0.025, 0.02, 0.02, 0.02])


def test_it_stays_within_its_share_of_what_is_saved() -> None:
    spec = billing(shadow={"max": 1.0, "budget": 0.3})
    rate, reason = shadow_rate(spec, calm(), MOVED, LATER)
    assert rate == 0.3
    assert "as far as 30 % of what is saved goes" in reason
    dear = replace(calm(), saved_layers=1_000.0, shadow_layers=600.0)
    assert shadow_rate(spec, dear, MOVED, LATER)[0] == pytest.approx(0.15)
    # Watching never ends, whatever it costs.
    dearest = replace(calm(), saved_layers=1.0, shadow_layers=1e9)
    assert shadow_rate(spec, dearest, MOVED, LATER)[0] == spec.shadow.min


def test_it_rises_before_the_evidence_is_stale_where_requests_come() -> None:
    """Few requests at the rate of calm times would leave the domain blind."""
    state, unseen = replace(calm(), shadow_rate=0.02), Evidence(oldest_unseen=LATER + MINUTE)
    rates = [
        shadow_rate(SPEC, state, evidence, LATER + minutes * MINUTE)[0]
        for evidence in (unseen, QUIET)
        for minutes in (59, 60, 90)
    ]
    assert rates == [0.02, 0.1, 0.8, 0.02, 0.02, 0.02]


def test_with_guarded_labels_it_does_not_fall_below_the_specs_rate() -> None:
    spec = billing(shadow={"rate": 0.1, "min": 0.02}, guards={"refund": 0.9})
    state = replace(calm(), monitor=replace(calm().monitor, guards=Monitor.start(spec).guards))
    rate, reason = shadow_rate(spec, state, QUIET, LATER)
    assert (rate, reason) == (0.1, "all is calm, labels are guarded")


def test_a_fixed_rate_stays_fixed() -> None:
    spec = billing(shadow={"rate": 0.9, "min": 0.9, "max": 0.9})
    for evidence in (QUIET, MOVED):
        assert shadow_rate(spec, calm(), evidence, LATER)[0] == 0.9


@given(states(), evidences, st.none() | st.floats(0, 1), st.floats(0, 1e6), st.floats(0, 1e6))
def test_it_never_leaves_its_bounds(
    state: DomainState, evidence: Evidence, rate: float | None, saved: float, spent: float
) -> None:
    state = replace(state, shadow_rate=rate, saved_layers=saved, shadow_layers=spent)
    found, reason = shadow_rate(SPEC, state, evidence, LATER)
    assert SPEC.shadow.min <= found <= SPEC.shadow.max
    assert found <= max(SPEC.shadow.budget, SPEC.shadow.min)
    assert reason


def test_the_decision_carries_rate_and_reason() -> None:
    decision = decide(SPEC, calm(), MOVED, LATER)
    assert decision.state_after.shadow_rate == decision.facts["shadow_rate"] == 0.8
    assert decision.facts["shadow_reason"] == "the traffic changed (exit depth)"
    assert decision.facts["signals"][0]["moved"] is True
