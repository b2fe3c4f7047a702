"""The way that one controller took through a future: share and shadow rate, tick by tick."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rollout.control.schema import DomainSpec
from rollout.simulation.loop import Step
from rollout.simulation.synthetic import shadow_rate
from rollout.simulation.truth import Floats


@dataclass(frozen=True)
class Move:
    """A change of the stage.

    Attributes:
        tick: At whose end it was decided: in force from the next on.
        rule: Why.
        before: Share of traffic before.
        after: Share of traffic after.
    """

    tick: int
    action: str
    rule: str
    before: float
    after: float


@dataclass(frozen=True)
class Path:
    """Attributes:
    weight: Share of traffic that may exit early, in force during each tick, [ticks].
    shadow: Share of the early arm that is compared, [ticks].
    moves: In order.
    """

    weight: Floats
    shadow: Floats
    moves: tuple[Move, ...]


def path_of(spec: DomainSpec, steps: Iterable[Step]) -> Path:
    """The path of a run, step by step."""
    weight, shadow, moves = [], [], []
    for tick, step in enumerate(steps):
        before = step.state.stage_weight(spec)
        weight.append(before)
        shadow.append(shadow_rate(spec, step.state))
        after = step.decision.state_after.stage_weight(spec)
        if after != before:
            moves.append(Move(tick, step.decision.action, step.decision.rule, before, after))
    return Path(np.array(weight), np.array(shadow), tuple(moves))
