"""After a setback: a cool-down that doubles, then a lock; whatever happens, no flapping."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.control.commands import command
from rollout.control.decide import decide
from rollout.control.decision import CertifiedThreshold, Evidence, Signal
from rollout.control.error_budget import ErrorBudget
from rollout.control.setbacks import cooldown
from rollout.control.state import DomainState
from rollout.values import RolloutError
from tests.control.examples import DAY, HOUR, MINUTE, MONDAY, QUIET, at_stage, billing, seeing
from tests.control.examples import comparisons as compared

SPEC = billing()
LATER = MONDAY + HOUR


def broken(setbacks: int, mode: str = "active") -> DomainState:
    """A domain at 5 % that is about to roll back, after some setbacks on the days before."""
    state = seeing(at_stage(SPEC, 2), compared(200, at=LATER) + compared(0, 20, at=LATER))
    before = tuple(LATER - number * DAY for number in range(setbacks, 0, -1))
    return replace(state, setbacks=before, mode=mode)  # type: ignore[arg-type]


@pytest.mark.parametrize(("setbacks", "days"), [(0, 1), (1, 2)])
def test_each_setback_within_the_span_doubles_the_cool_down(setbacks: int, days: int) -> None:
    decision = decide(SPEC, broken(setbacks), QUIET, LATER)
    assert decision.action == "roll_back"
    assert decision.state_after.cooldown_until == LATER + days * DAY
    assert decision.state_after.mode == "active"


def test_a_cool_down_grows_no_longer_than_its_maximum_and_shrinks_never() -> None:
    spec = billing(rollback={"cooldown": "2d", "backoff": 10, "cooldown_max": "3d", "budget": 9})
    assert [cooldown(spec, number) / DAY for number in (1, 2, 9)] == [2, 3, 3]
    long = billing(rollback={"cooldown": "30d", "cooldown_max": "3d"})
    assert cooldown(long, 1) == cooldown(long, 5) == 30 * DAY


def test_setbacks_of_long_ago_are_forgotten() -> None:
    state = replace(broken(0), setbacks=(LATER - 8 * DAY, LATER - 7 * DAY))
    assert len(decide(SPEC, state, QUIET, LATER).state_after.setbacks) == 1


def test_the_budgets_last_setback_locks_until_a_person_resumes() -> None:
    decision = decide(SPEC, broken(2), QUIET, LATER)
    locked = decision.state_after
    assert (decision.action, locked.mode) == ("roll_back", "locked")
    assert "setback 3 of 3 allowed within 7d" in decision.reason
    good = seeing(locked, compared(3_000, at=LATER + 30 * DAY))
    held = decide(SPEC, good, QUIET, LATER + 30 * DAY)
    assert (held.action, held.rule, held.verdict) == ("hold", "locked", "inconclusive")
    with pytest.raises(RolloutError, match="rollout resume"):
        command(SPEC, good, "promote", "aiko", "", LATER + 30 * DAY)
    resumed = command(SPEC, good, "resume", "aiko", "looked at it", LATER + 30 * DAY).state_after
    assert (resumed.mode, resumed.setbacks, resumed.cooldown_until) == ("active", (), None)
    assert decide(SPEC, resumed, QUIET, LATER + 30 * DAY).action == "promote"


def test_rollback_stays_live_while_locked_and_while_paused() -> None:
    assert decide(SPEC, broken(3, mode="locked"), QUIET, LATER).action == "roll_back"
    paused = decide(SPEC, broken(2, mode="paused"), QUIET, LATER)
    assert (paused.action, paused.state_after.mode) == ("roll_back", "paused")


def test_a_tightening_is_a_setback_too() -> None:
    seen = (compared(28, at=LATER) + compared(0, 1, at=LATER)) * 100
    state = at_stage(SPEC, 2)
    while not state.monitor.target.alarmed:
        state = seeing(state, seen)
    tighter = Evidence(tighter=CertifiedThreshold(2, 0.97, 0.015, 900))
    decision = decide(SPEC, state, tighter, LATER)
    assert decision.action == "tighten"
    assert decision.state_after.setbacks == (LATER,)
    assert decision.state_after.cooldown_until == LATER + DAY


# --- no flapping ------------------------------------------------------------------------------

HASTY = billing(
    dwell="5m",
    min_evidence=1,
    agreement={"target": 0.9, "floor": 0.6, "alpha": 0.5},
    evidence={"mean_time_to_false_alarm": 100, "stale_after": "30m", "blind_after": "1h"},
    rollback={"cooldown": "2h", "per": "1d", "budget": 3, "cooldown_max": "6h"},
    levers={"up": ["threshold", "share"]},
    shadow={"rate": 0.5},
)
ticks = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 5, 40, 200]),  # matched
        st.sampled_from([0, 0, 0, 1, 10, 60]),  # mismatched
        st.sampled_from([1, 5, 20, 120]),  # minutes since the tick before
        st.booleans(),  # whether a certified threshold is at hand, stricter and bolder
        st.booleans(),  # whether requests go unseen
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=40)
@given(ticks)
def test_whatever_the_evidence_a_domain_moves_only_so_often(
    evidences: list[tuple[int, int, int, bool, bool]],
) -> None:
    state, now = DomainState.start(HASTY, MONDAY, policy_version=1), MONDAY
    setbacks, ups, versions = [], [], 1
    for matched, mismatched, minutes, moves, unseen in evidences:
        now += minutes * MINUTE
        state = seeing(state, compared(matched, mismatched, at=now))
        threshold = CertifiedThreshold(versions + 1, 0.5, 0.05, 100) if moves else None
        evidence = Evidence(
            tighter=threshold, looser=threshold, oldest_unseen=now if unseen else None
        )
        before = state
        decision = decide(HASTY, state, evidence, now)
        state = decision.state_after
        versions += decision.action in ("tighten", "loosen")
        if decision.action in ("promote", "loosen"):
            # Never up before the dwell, a cool-down or a person's look is over.
            assert now - before.stage_since >= HASTY.dwell
            assert before.cooldown_until is None or now >= before.cooldown_until
            assert before.mode == "active"
            ups.append(now)
        elif decision.verdict == "fail" and decision.action != "hold":
            setbacks.append(now)
            assert state.cooldown_until is not None
            assert state.cooldown_until - now >= timedelta(hours=2)
    # After the budget's last setback within a day nothing goes up again: nobody resumes here.
    for third in range(2, len(setbacks)):
        if setbacks[third] - setbacks[third - 2] < DAY:
            assert all(up <= setbacks[third] for up in ups)
            break


# --- the error budget -------------------------------------------------------------------------


@given(st.integers(2, 8), st.lists(st.integers(0, 7), max_size=40), st.floats(0.001, 0.5))
def test_the_levels_of_all_tests_ever_started_stay_within_alpha(
    stages: int, entered: list[int], alpha: float
) -> None:
    budget = ErrorBudget.start(alpha, stages - 1)
    levels = [budget.level]
    for stage in entered:
        budget = budget.next(stages - 1 - min(stage, stages - 1))
        levels.append(budget.level)
    assert sum(levels) <= alpha * (1 + 1e-9)
    assert budget.spent == pytest.approx(sum(levels))
    assert budget.left > 0


def test_a_straight_climb_uses_equal_shares_and_keeps_one() -> None:
    state, levels = at_stage(SPEC, 0), []
    for _ in range(5):
        levels.append(state.error_budget(SPEC).level)
        state = state.promoted(SPEC, LATER)
    assert levels == pytest.approx([0.05 / 6] * 5)
    assert state.error_budget(SPEC).level == 0
    assert state.error_budget(SPEC).left == pytest.approx(0.05 / 6)


def test_a_second_climb_needs_more_evidence_than_the_first() -> None:
    top = at_stage(SPEC, 5)
    again = top.entering(SPEC, 0, LATER)
    assert 0 < again.error_budget(SPEC).level < at_stage(SPEC, 0).error_budget(SPEC).level / 5


def test_a_signal_holds_promotions_only_where_the_spec_says_so() -> None:
    moved = Evidence(signals=(Signal("exit depth", 0.4, 0.1),))
    state = seeing(at_stage(SPEC, 1), compared(400, 2, at=LATER))
    assert decide(SPEC, state, moved, LATER).action == "promote"
    careful = billing(evidence={"signals": "hold"})
    held = decide(careful, state, moved, LATER)
    assert (held.action, held.rule) == ("hold", "signal")
    assert "exit depth" in held.reason
