"""One synthetic future: requests and comparisons drawn from a scenario's truth, and its people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from rollout.control.commands import Verb, command, policy_changed
from rollout.control.decision import Decision
from rollout.control.schema import DomainSpec
from rollout.control.state import Comparison, DomainState
from rollout.simulation.loop import Arrivals, Step, run
from rollout.simulation.truth import Bools, Floats, Truth

ANSWERS: dict[str, Verb] = {"approval": "promote", "locked": "resume"}
"""What a person does about a rule that waits for one."""

_ACTOR = "simulated person"


def simulate(
    spec: DomainSpec, truth: Truth, answer_after: timedelta | None, seed: int
) -> Iterator[Step]:
    """The steps of one rollout, from a first calibration at the start.

    Args:
        answer_after: How long a person takes to answer; None: nobody does.
    """
    future = Future(spec, truth, np.random.default_rng(seed))
    people = People(spec, truth, answer_after)
    return run(spec, future.start(), truth.moments, future, people)


class Future:
    """Every request of one future, drawn beforehand: where it would fall, and how it would go.

    A request is early where its draw lies under the stage weight, and shadowed where another lies
    under the shadow rate, as production does by hashes. So two specs, or two ways to go through
    the ticks, meet the same requests.
    """

    def __init__(self, spec: DomainSpec, truth: Truth, random: np.random.Generator) -> None:
        self.spec, self.truth = spec, truth
        self.tick = 0
        per_tick = random.poisson(truth.requests)
        self.ends = np.concatenate([[0], np.cumsum(per_tick)]).tolist()
        self.arm = random.random(self.ends[-1])
        self.shadow = random.random(self.ends[-1])
        self.silent = np.repeat(truth.outage, per_tick)
        self.kinds = _kinds(truth, per_tick, random.random(self.ends[-1]))

    def start(self) -> DomainState:
        """The state at the beginning: calibrated, shadow-only."""
        first, second = self.truth.moments[:2]
        return DomainState.start(self.spec, first - (second - first), policy_version=1)

    def __call__(self, now: datetime, state: DomainState) -> Arrivals:
        """The next tick's."""
        self.tick += 1
        return self.between(self.tick - 1, self.tick, now, state)

    def between(self, first: int, end: int, now: datetime, state: DomainState) -> Arrivals:
        """Of ticks `first` to `end` (exclusive), all in one state, as if answered at `now`."""
        requests = slice(self.ends[first], self.ends[end])
        early, shadowed, compared = self._treated(first, end, state)
        exited = self.kinds[requests] % 3 != _FULL
        kinds = self.kinds[requests][compared].tolist()
        pairs = 0
        if self.spec.agreement.noise_ceiling:
            # As the request path draws them: of the shadows and of the control arm.
            of = np.where(early, shadow_rate(self.spec, state), 1.0)
            again = self.shadow[requests] < self.spec.shadow.replay_share * of
            pairs = int(np.count_nonzero(compared & again))
        made: dict[int, Comparison] = {}
        for kind in set(kinds):
            label, way = divmod(kind, 3)
            made[kind] = Comparison(
                at=now,
                matched=way != _DIFFERENT,
                exited=way != _FULL,
                label=self.truth.labels[label],
                severity=float(self.truth.severity[label]),
            )
        return Arrivals(
            requests=len(early),
            comparisons=[made[kind] for kind in kinds],
            first_unseen=now if len(early) and not kinds else None,
            saved_layers=float(np.count_nonzero(early & exited)),
            shadow_layers=float(np.count_nonzero(early & exited & shadowed)),
            # The simulated full model always agrees with itself.
            full_pairs=[True] * pairs,
        )

    def compared(self, first: int, end: int, state: DomainState) -> list[Bools]:
        """Per tick of `first` to `end` (exclusive): whether each compared request disagrees."""
        compared = self._treated(first, end, state)[2]
        begin = self.ends[first]
        wrong = self.kinds[begin : self.ends[end]] % 3 == _DIFFERENT
        parts = [
            slice(self.ends[at] - begin, self.ends[at + 1] - begin) for at in range(first, end)
        ]
        return [wrong[part][compared[part]] for part in parts]

    def _treated(self, first: int, end: int, state: DomainState) -> tuple[Bools, Bools, Bools]:
        """Per request: of the early arm, in the shadows' sample, compared."""
        requests = slice(self.ends[first], self.ends[end])
        early = self.arm[requests] < state.stage_weight(self.spec)
        shadowed = self.shadow[requests] < shadow_rate(self.spec, state)
        compared = (shadowed | ~early) & ~self.silent[requests]
        return early, shadowed, compared


_DIFFERENT, _FULL = 1, 2
"""Ways that a request goes; 0 is early and equal."""


def shadow_rate(spec: DomainSpec, state: DomainState) -> float:
    """The share of early-arm requests that is compared in this state."""
    return spec.shadow.rate if state.shadow_rate is None else state.shadow_rate


def _kinds(truth: Truth, per_tick: NDArray[np.int64], draws: Floats) -> NDArray[np.intp]:
    """3 x label + way, per request: early and equal, early and different, full depth."""
    exits, error = truth.share * truth.exits, truth.share * truth.error
    parts = np.stack([exits - error, error, truth.share - exits], axis=2)
    levels = np.cumsum(parts.reshape(len(parts), -1), axis=1)
    # The last part reaches to 1 whatever the rounding.
    levels[:, -1] = 1.0
    # Tick by tick on one rising line, so that one search places all requests.
    ticks = np.arange(len(levels))
    line = (levels + ticks[:, None]).ravel()
    of = np.repeat(ticks, per_tick)
    place = np.searchsorted(line, draws + of, side="right")
    kinds: NDArray[np.intp] = np.minimum(place - of * levels.shape[1], levels.shape[1] - 1)
    return kinds


@dataclass
class People:
    """Who calibrates when the scenario says so, and answers after a while where waited for.

    Attributes:
        answer_after: None: nobody answers.
        waiting: Rule that waits for a person, and since when.
    """

    spec: DomainSpec
    truth: Truth
    answer_after: timedelta | None
    waiting: tuple[str, datetime] | None = None
    tick: int = 0

    def __call__(self, now: datetime, state: DomainState, decision: Decision) -> DomainState:
        self.tick += 1
        if self.tick in self.truth.calibrations:
            self.waiting = None
            return policy_changed(self.spec, state, (state.policy_version or 0) + 1, now)
        if decision.rule not in ANSWERS or self.answer_after is None:
            self.waiting = None
            return state
        if self.waiting is None or self.waiting[0] != decision.rule:
            self.waiting = decision.rule, now
        if now - self.waiting[1] < self.answer_after:
            return state
        verb, self.waiting = ANSWERS[decision.rule], None
        return command(self.spec, state, verb, _ACTOR, "", now).state_after
