"""What a controller is measured against: an oracle that knows the truth, a threshold on a window.

Both take the stages, dwell, approvals, freeze windows and cool-down of the same spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from rollout.control.schema import DomainSpec
from rollout.simulation.path import Move, Path
from rollout.simulation.truth import Bools, Floats, Truth


def lost(spec: DomainSpec, truth: Truth) -> Bools:
    """Ticks at which true agreement is below the floor, or a guarded label's below its guard."""
    below: Bools = truth.judged_agreement < spec.agreement.floor - 1e-12
    for label, guard in spec.guarded.items():
        below |= truth.exit_error(label) > 1.0 - guard + 1e-12
    return below


def on_target(spec: DomainSpec, truth: Truth) -> Bools:
    """Ticks at which true agreement is at the target or above, and nothing is lost."""
    on: Bools = (truth.judged_agreement >= spec.agreement.target - 1e-12) & ~lost(spec, truth)
    return on


@dataclass
class _Climb:
    """Where a rule stands on the spec's stages, and when it may go up."""

    spec: DomainSpec
    answer_after: timedelta | None
    since: datetime
    stage: int = 0
    cooldown_until: datetime | None = None
    asked: datetime | None = None

    @property
    def weight(self) -> float:
        return self.spec.stages[self.stage]

    def up(self, now: datetime) -> bool:
        """Promote if dwell, cool-down, the calendar and a person let it."""
        after = self.stage + 1
        if after == len(self.spec.stages) or now - self.since < self.spec.dwell:
            return False
        if self.cooldown_until is not None and now < self.cooldown_until:
            return False
        if any(window.holds(now) for window in self.spec.freeze_windows):
            return False
        if self.spec.stages[after] in self.spec.approval.before:
            self.asked = self.asked or now
            if self.answer_after is None or now - self.asked < self.answer_after:
                return False
        self._enter(after, now)
        return True

    def back(self, now: datetime) -> None:
        """Roll back as the spec says: to its stage, or to 0 from there."""
        to = self.spec.stages.index(self.spec.rollback.to)
        self._enter(to if to < self.stage else 0, now)
        self.cooldown_until = now + self.spec.rollback.cooldown

    def restart(self, now: datetime) -> None:
        self._enter(0, now)

    def _enter(self, stage: int, now: datetime) -> None:
        self.stage, self.since, self.asked = stage, now, None


def oracle(spec: DomainSpec, truth: Truth, answer_after: timedelta | None) -> Path:
    """Who knows the true agreement at every moment, the coming tick's included.

    It needs no comparison, so it pays for no shadow and waits for no evidence. While agreement is
    on target it goes up a stage as soon as dwell, cool-down, calendar and approval let it; between
    target and floor it stays; it rolls back before the first request of a tick in which agreement
    is lost. What it serves wrong is what a healthy policy gets wrong.
    """
    gone, good = lost(spec, truth), on_target(spec, truth)
    climb = _Climb(spec, answer_after, truth.moments[0] - truth.width)
    weight, moves = np.zeros(len(gone)), []
    for tick, now in enumerate(truth.moments):
        begin, before = now - truth.width, climb.weight
        if tick in truth.calibrations:
            climb.restart(begin)
        if gone[tick] and climb.stage > 0:
            climb.back(begin)
        elif good[tick]:
            climb.up(begin)
        if climb.weight != before:
            action = "promote" if climb.weight > before else "roll_back"
            moves.append(Move(tick - 1, action, "truth", before, climb.weight))
        weight[tick] = climb.weight
    return Path(weight, np.zeros(len(weight)), tuple(moves))


@dataclass(frozen=True)
class Window:
    """A controller of the common kind: a success rate over a fixed window against a threshold.

    Flagger and Argo Rollouts analyse at a fixed interval: at or above the threshold the weight goes
    up a step, below it, *or without a value*, a check has failed, and after so many failed checks
    everything is rolled back. Failed checks add up as Flagger's do (pkg/controller/scheduler.go)
    until a stage is entered. Beyond what those tools do, it goes on analysing at the last stage and
    starts again after the cool-down.

    Attributes:
        every: Analysis interval, and the window.
        threshold: Success rate asked for.
        failures: Failed checks that roll back.
    """

    every: timedelta
    threshold: float
    failures: int

    def path(
        self,
        spec: DomainSpec,
        truth: Truth,
        answer_after: timedelta | None,
        random: np.random.Generator,
    ) -> Path:
        """Its way through one future; comparisons come as the spec's shadow rate gives them."""
        requests, error = random.poisson(truth.requests), 1.0 - truth.agreement
        per_check = max(1, round(self.every / truth.width))
        climb = _Climb(spec, answer_after, truth.moments[0] - truth.width)
        weight, moves = np.zeros(len(error)), []
        seen = wrong = failed = 0
        for tick, now in enumerate(truth.moments):
            if tick in truth.calibrations:
                climb.restart(now - truth.width)
                seen = wrong = failed = 0
            before = weight[tick] = climb.weight
            if requests[tick] and not truth.outage[tick]:
                compared = random.binomial(requests[tick], 1.0 - before * (1.0 - spec.shadow.rate))
                seen += compared
                wrong += random.binomial(compared, error[tick])
            if (tick + 1) % per_check:
                continue
            if seen and 1.0 - wrong / seen >= self.threshold:
                if climb.up(now):
                    failed = 0
            else:
                failed += 1
                if failed >= self.failures and climb.stage > 0:
                    climb.back(now)
                    failed = 0
            seen = wrong = 0
            if climb.weight != before:
                action = "promote" if climb.weight > before else "roll_back"
                moves.append(Move(tick, action, "window", before, climb.weight))
        return Path(weight, _constant(spec.shadow.rate, len(weight)), tuple(moves))


def _constant(value: float, length: int) -> Floats:
    constant: Floats = np.full(length, value)
    return constant
