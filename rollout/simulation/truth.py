"""A scenario as arrays over ticks: requests, agreement and exits. What no controller sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from rollout.control.schema import NEVER_EARLY, DomainSpec
from rollout.control.spec import SpecError
from rollout.simulation.scenario import Event, Scenario

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_DAY_S = 86_400.0
_BUSIEST = 15 / 24
"""15:00, as a share of the day."""


@dataclass(frozen=True)
class Truth:
    """Attributes:
    moments: End of each tick.
    requests: Expected requests of the tick, [ticks].
    labels: Names.
    share: Of the traffic, [ticks, labels], rows sum to 1.
    error: Share of a label's requests answered otherwise, [ticks, labels].
    exits: Share of a label's requests that exit early, [ticks, labels], at least `error`.
    severity: What a wrong early answer costs, [labels], in [0, 1].
    outage: No comparison arrives, [ticks].
    calibrations: Ticks at which a new policy version starts.
    """

    moments: tuple[datetime, ...]
    requests: Floats
    labels: tuple[str, ...]
    share: Floats
    error: Floats
    exits: Floats
    severity: Floats
    outage: Bools
    calibrations: frozenset[int]

    @property
    def width(self) -> timedelta:
        """Of a tick."""
        return self.moments[1] - self.moments[0]

    @property
    def agreement(self) -> Floats:
        """Of the domain, [ticks]."""
        agreement: Floats = 1.0 - (self.share * self.error).sum(axis=1)
        return agreement

    @property
    def judged_agreement(self) -> Floats:
        """1 - mean cost, [ticks]: what is held against target and floor."""
        agreement: Floats = 1.0 - (self.share * self.error) @ self.severity
        return agreement

    @property
    def exit_share(self) -> Floats:
        """Of the domain, [ticks]."""
        exit_share: Floats = (self.share * self.exits).sum(axis=1)
        return exit_share

    def exit_error(self, label: str) -> Floats:
        """Share of this label's early exits that disagree, [ticks]: what a guard looks at."""
        index = self.labels.index(label)
        exits = self.exits[:, index]
        return np.divide(self.error[:, index], exits, out=np.zeros_like(exits), where=exits > 0)


def truth_of(scenario: Scenario, spec: DomainSpec) -> Truth:
    """The scenario's truth for a domain.

    Guarded labels of the spec that the scenario does not name stand in for its labels, the rarest
    first. A `never_early` label never exits.

    Raises:
        SpecError: where the spec guards more labels than the scenario has, or an event makes an
            agreement that early exits cannot make.
    """
    ticks = scenario.duration // scenario.tick
    # The truth of a tick is the truth at its middle.
    seconds: Floats = (np.arange(ticks, dtype=np.float64) + 0.5) * scenario.tick.total_seconds()
    names = list(scenario.labels)
    share = np.array([label.share for label in scenario.labels.values()])
    labels = _named(names, share, spec)
    agreement = np.tile([label.agreement for label in scenario.labels.values()], (ticks, 1))
    exits = np.tile([label.exit_share for label in scenario.labels.values()], (ticks, 1))
    requests = _requests(scenario, seconds)
    outage = np.zeros(ticks, dtype=bool)
    for event in scenario.events:
        part = _progress(event, seconds)
        where = [names.index(name) for name in event.labels or names]
        for values, to in ((agreement, event.agreement), (exits, event.exit_share)):
            if to is not None:
                values[:, where] += part[:, None] * (to - values[:, where])
        if event.traffic is not None:
            requests *= 1.0 + part * (event.traffic - 1.0)
        if event.outage:
            outage |= part > 0.0
    never = [labels.index(name) for name, guard in spec.guards.items() if guard == NEVER_EARLY]
    exits[:, never], agreement[:, never] = 0.0, 1.0
    _refuse_impossible(agreement, exits, labels, scenario.tick)
    return Truth(
        moments=tuple(scenario.start + (tick + 1) * scenario.tick for tick in range(ticks)),
        requests=requests,
        labels=labels,
        share=np.tile(share / share.sum(), (ticks, 1)),
        error=1.0 - agreement,
        exits=exits,
        # Which wrong label is answered is not simulated: the costliest.
        severity=np.array([spec.agreement.loss(label, None) for label in labels]),
        outage=outage,
        calibrations=frozenset(
            event.at // scenario.tick for event in scenario.events if event.calibrate
        ),
    )


def _requests(scenario: Scenario, seconds: Floats) -> Floats:
    """Expected requests a tick, with the day's and the week's season (in the start's zone)."""
    begin = scenario.start
    offset = begin.weekday() * _DAY_S + begin.hour * 3600 + begin.minute * 60 + begin.second
    day = (offset + seconds) / _DAY_S
    swing = 1.0 + scenario.traffic.daily * np.cos(2 * np.pi * (day - _BUSIEST))
    weekend = np.where(day % 7 >= 5, scenario.traffic.weekend, 1.0)
    per_tick = scenario.traffic.per_hour * scenario.tick.total_seconds() / 3600
    requests: Floats = per_tick * swing * weekend
    return requests


def _progress(event: Event, seconds: Floats) -> Floats:
    """How far the event has come, in [0, 1], per tick."""
    since = seconds - event.at.total_seconds()
    begun = since >= 0
    if event.every is not None:
        since = since % event.every.total_seconds()
    over = event.over.total_seconds()
    part = np.clip(since / over, 0.0, 1.0) if over else np.ones_like(since)
    if event.last is not None:
        begun &= since < event.last.total_seconds()
    progress: Floats = np.where(begun, part, 0.0)
    return progress


def _named(names: Sequence[str], share: Floats, spec: DomainSpec) -> tuple[str, ...]:
    """The scenario's labels under the names that the spec's guards look for."""
    labels = list(names)
    unnamed = [label for label in spec.guards if label not in labels]
    free = [int(index) for index in np.argsort(share, kind="stable")]
    free = [index for index in free if labels[index] not in spec.guards]
    if len(unnamed) > len(free):
        raise SpecError(
            f"the spec guards {len(spec.guards)} labels ({', '.join(spec.guards)}), the scenario "
            f"has {len(names)}; add labels to the scenario"
        )
    for label, index in zip(unnamed, free, strict=False):
        labels[index] = label
    return tuple(labels)


def _refuse_impossible(
    agreement: Floats, exits: Floats, labels: Sequence[str], tick: timedelta
) -> None:
    wrong = np.argwhere(1.0 - agreement > exits + 1e-9)
    if len(wrong):
        at, index = wrong[0]
        raise SpecError(
            f"events: label {labels[index]} has agreement {agreement[at, index]:g} from "
            f"{(at * tick)} on, but only {exits[at, index]:g} of its requests exit early and only "
            "those can disagree; raise exit_share or agreement"
        )
