"""Two levers, share and threshold, in the order the spec says; bolder only where certified."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rollout.control.alarms import wants_tighter
from rollout.control.decide import decide
from rollout.control.decision import CertifiedThreshold, Evidence
from rollout.control.ladder import GRID, climbed, ladder_of, trace_severity, with_new_ladder
from rollout.control.loosening import wants_looser
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState, Monitor
from rollout.values import DepthTrace, ExitPoint
from tests.control.examples import DAY, HOUR, MONDAY, QUIET, at_stage, billing, seeing
from tests.control.examples import comparisons as compared

SPEC = billing()
LATER = MONDAY + HOUR
MOVED = CertifiedThreshold(policy_version=2, threshold=0.6, certified_risk=0.02, rows=900)
BOLDER = Evidence(looser=MOVED)


def well(spec: DomainSpec = SPEC, stage: int = 5) -> DomainState:
    return seeing(at_stage(spec, stage), compared(400, 2, at=LATER))


def short_of_target(spec: DomainSpec, stage: int = 2) -> DomainState:
    seen = (compared(28, at=LATER) + compared(0, 1, at=LATER)) * 100
    state = at_stage(spec, stage)
    while not state.monitor.target.alarmed:
        state = seeing(state, seen)
    return state


# --- down -------------------------------------------------------------------------------------


def test_share_first_narrows_although_a_stricter_threshold_is_certified() -> None:
    spec = billing(levers={"down": ["share", "threshold"]})
    state = short_of_target(spec)
    assert not wants_tighter(spec, state)
    assert decide(spec, state, Evidence(tighter=MOVED), LATER).action == "narrow"


def test_share_first_tightens_where_there_is_no_share_left() -> None:
    spec = billing(levers={"down": ["share", "threshold"]})
    state = short_of_target(spec, stage=0)
    assert wants_tighter(spec, state)
    assert decide(spec, state, Evidence(tighter=MOVED), LATER).action == "tighten"


def test_without_the_threshold_lever_nothing_is_tightened() -> None:
    spec = billing(levers={"down": ["share"]})
    state = short_of_target(spec, stage=0)
    assert not wants_tighter(spec, state)
    assert decide(spec, state, Evidence(tighter=MOVED), LATER).rule == "fails_in_shadow"


# --- up ---------------------------------------------------------------------------------------


def test_a_bolder_threshold_is_taken_at_the_last_stage_and_the_share_stays() -> None:
    decision = decide(SPEC, well(), BOLDER, LATER)
    assert (decision.action, decision.rule, decision.verdict) == ("loosen", "loosened", "pass")
    after = decision.state_after
    assert (after.stage, after.policy_version, decision.threshold) == (5, 2, 0.6)
    assert after.monitor == Monitor.start(SPEC)
    assert "at most 2 %" in decision.reason


def test_share_first_loosens_at_the_last_stage_only_threshold_first_at_any() -> None:
    assert decide(SPEC, well(stage=2), BOLDER, LATER).action == "promote"
    first = billing(levers={"up": ["threshold", "share"]})
    assert decide(first, well(first, stage=2), BOLDER, LATER).action == "loosen"
    never = billing(levers={"up": ["share"]})
    assert decide(never, well(never), BOLDER, LATER).action == "hold"


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "paused"},
        {"mode": "locked"},
        {"cooldown_until": LATER + DAY},
        {"stage_since": LATER},
        {"monitor": Monitor.start(SPEC)},
    ],
)
def test_nothing_is_loosened_while_something_forbids_it(change: dict[str, object]) -> None:
    state = replace(well(), **change)  # type: ignore[arg-type]
    assert not wants_looser(SPEC, state, LATER)
    assert decide(SPEC, state, BOLDER, LATER).action == "hold"


def test_nothing_is_loosened_in_a_freeze_window() -> None:
    spec = billing(freeze=["Mon 00:00 - Tue 00:00 UTC"])
    assert decide(spec, well(spec), BOLDER, LATER).action == "hold"


def test_nothing_is_loosened_off_target() -> None:
    off = seeing(at_stage(SPEC, 5), (compared(43, at=LATER) + compared(0, 1, at=LATER)) * 20)
    assert not off.monitor.alarms
    assert decide(SPEC, off, BOLDER, LATER).action == "hold"


# --- the ladder -------------------------------------------------------------------------------


def test_a_ladder_stays_when_the_threshold_moves_and_ends_with_other_heads_or_target() -> None:
    state = with_new_ladder(SPEC, well(), "heads-1", [0.5, 0.9, 0.7])
    ladder = ladder_of(SPEC, state, "heads-1")
    assert ladder is not None
    assert ladder.test.thresholds == (0.9, 0.7, 0.5)
    after = decide(SPEC, state, BOLDER, LATER).state_after
    assert ladder_of(SPEC, after, "heads-1") == ladder
    assert ladder_of(SPEC, after, "heads-2") is None
    assert ladder_of(billing(agreement={"target": 0.97}), after, "heads-1") is None


def test_a_setback_ends_the_ladder_and_the_next_one_takes_a_smaller_share_of_alpha() -> None:
    state = with_new_ladder(SPEC, short_of_target(SPEC), "heads-1", [0.9, 0.7])
    first = ladder_of(SPEC, state, "heads-1")
    after = decide(SPEC, state, QUIET, LATER).state_after
    assert after.ladder is None
    again = ladder_of(SPEC, with_new_ladder(SPEC, after, "heads-1", [0.9, 0.7]), "heads-1")
    assert first is not None and again is not None
    assert again.test.alpha == pytest.approx(first.test.alpha / 4)
    assert again.test.count == 0


def test_a_ladder_certifies_the_boldest_threshold_that_holds() -> None:
    state = with_new_ladder(SPEC, well(), "heads-1", [0.9, 0.7, 0.5])
    assert state.ladder is not None
    wrong = np.zeros((1_000, 3), dtype=bool)
    wrong[::20, 2] = True
    ladder = climbed(state.ladder, wrong)
    assert ladder.test.threshold == 0.7


def test_without_candidates_of_a_calibration_the_ladder_has_a_fixed_grid() -> None:
    ladder = with_new_ladder(SPEC, well(), "heads-1", []).ladder
    assert ladder is not None
    assert ladder.test.thresholds == GRID
    assert (GRID[0], GRID[1], GRID[-1]) == (1.0, 0.99, 0.61)


def test_a_ladders_losses_are_the_specs_severities() -> None:
    spec = billing(agreement={"severity": {"*": 0.2, "refund": {"invoice": 0.5}}})
    trace = DepthTrace((ExitPoint(2, 0, 0.9), ExitPoint(4, 2, 0.9)), full_answer=1, depth=8)
    labels = ("invoice", "refund", "fraud")
    costs = trace_severity(spec.agreement, [trace], labels)
    assert costs is not None
    assert costs.tolist() == [[0.5, 1.0]]
    assert trace_severity(SPEC.agreement, [trace], labels) is None
