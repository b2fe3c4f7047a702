"""The same path as `path_of(simulate(...))`, without asking at ticks whose answer is known.

Nothing is decided here. Two stretches are passed over. A policy that fails in shadow serves nobody
until a person calibrates. And at the last stage, with all calm, comparisons that agree and keep
coming leave stage and shadow rate as they are: their ticks are folded into the monitor at once. A
test walks through hundreds of futures both ways.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from rollout.control.decision import Decision
from rollout.control.schema import DomainSpec
from rollout.control.shadow_rate import NEAR
from rollout.control.state import DomainState
from rollout.simulation.loop import counted, decided
from rollout.simulation.path import Move, Path
from rollout.simulation.synthetic import Future, People, shadow_rate
from rollout.simulation.truth import Truth
from rollout.stats.change import ChangeDetector, rates_after_change

HORIZON = 96
"""Ticks looked ahead at once."""


def fast_path(spec: DomainSpec, truth: Truth, answer_after: timedelta | None, seed: int) -> Path:
    """The path through the future of a seed.

    Args:
        answer_after: How long a person takes to answer; None: nobody does.
    """
    future = Future(spec, truth, np.random.default_rng(seed))
    people = People(spec, truth, answer_after)
    ticks = len(truth.moments)
    weight, shadow = np.zeros(ticks), np.zeros(ticks)
    moves: list[Move] = []
    state, unseen, tick = future.start(), None, 0
    while tick < ticks:
        now = truth.moments[tick]
        weight[tick], shadow[tick] = state.stage_weight(spec), shadow_rate(spec, state)
        new = future.between(tick, tick + 1, now, state)
        if new.comparisons or unseen is None:
            unseen = new.first_unseen
        step = decided(spec, counted(state, new), new, unseen, now)
        before, after = weight[tick], step.decision.state_after.stage_weight(spec)
        if after != before:
            moves.append(Move(tick, step.decision.action, step.decision.rule, before, after))
        people.tick = tick
        state = people(now, step.decision.state_after, step.decision)
        tick += 1
        end = _quiet_until(spec, future, state, step.decision, tick)
        if end > tick:
            weight[tick:end], shadow[tick:end] = state.stage_weight(spec), shadow_rate(spec, state)
            if step.decision.rule == "top_stage":
                state, unseen = _passed(future, state, unseen, tick, end)
            tick = end
    return Path(weight, shadow, tuple(moves))


def _quiet_until(
    spec: DomainSpec,
    future: Future,
    state: DomainState,
    decision: Decision,
    tick: int,
) -> int:
    """The first tick from this one on that must be asked about; the one after the last: none."""
    truth = future.truth
    # A calibration is made after the tick before it.
    upcoming = (at - 1 for at in sorted(truth.calibrations) if at > tick)
    last = min(next(upcoming, len(truth.moments)), len(truth.moments))
    if decision.rule == "fails_in_shadow" and state.policy_version == state.failed_policy:
        return last
    calm = (
        decision.rule == "top_stage"
        and shadow_rate(spec, state) == spec.shadow.min
        and state.monitor.promotion.count >= spec.min_evidence
        and not any(_may_stir(detector) for detector in _detectors(state))
    )
    if not calm:
        return tick
    last = min(last, tick + HORIZON)
    seen = future.compared(tick, last, state)
    patience = spec.evidence.stale_after / 2
    heard = state.monitor.last_comparison_at or state.stage_since
    for ahead in range(tick, last):
        if seen[ahead - tick].any():
            return ahead
        if len(seen[ahead - tick]):
            heard = truth.moments[ahead]
        elif truth.moments[ahead] - heard >= patience:
            return ahead
    return last


def _passed(
    future: Future, state: DomainState, unseen: datetime | None, tick: int, end: int
) -> tuple[DomainState, datetime | None]:
    """After these ticks, whose comparisons all agree: the state, and the first request unseen."""
    moments = future.truth.moments
    seen = future.compared(tick, end, state)
    heard = max((at for at, some in enumerate(seen, start=tick) if len(some)), default=None)
    new = future.between(tick, end, moments[tick if heard is None else heard], state)
    if heard is not None:
        unseen, tick = None, heard + 1
    later = (moments[at] for at in range(tick, end) if future.ends[at] < future.ends[at + 1])
    return counted(state, new), unseen or next(later, None)


def _detectors(state: DomainState) -> list[ChangeDetector]:
    monitor = state.monitor
    return [monitor.target, monitor.floor, *monitor.guards.values()]


def _may_stir(detector: ChangeDetector) -> bool:
    """Whether comparisons that agree could bring the detector near its alarm.

    Each level then moves straight towards ratio / (1 - ratio), so it stays below the larger of the
    two.
    """
    if detector.alarmed:
        return True
    highest = 0.0
    for rate, level in zip(
        rates_after_change(detector.tolerated_error), detector.levels, strict=True
    ):
        ratio = (1.0 - rate) / (1.0 - detector.tolerated_error)
        highest += max(level, ratio / (1.0 - ratio))
    return bool(highest / len(detector.levels) >= detector.mean_time_to_false_alarm**NEAR)
