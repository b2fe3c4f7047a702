"""What a path came to: harm, saving, time in the wrong stage, delays, false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from rollout.control.schema import DomainSpec
from rollout.simulation.baselines import lost, on_target
from rollout.simulation.path import Path
from rollout.simulation.truth import Bools, Truth

BLIND_RULES = frozenset({"blind"})
"""Steps down for want of evidence: neither right nor false, the answers were not judged."""


@dataclass(frozen=True)
class Outcome:
    """Attributes:
    promotions: Stages gone up.
    false_promotions: Of those, while agreement was lost (below the floor, or a guard's).
    step_downs: Narrowings and rollbacks for the answers' sake.
    false_step_downs: Of those, while agreement was on target.
    blind_steps: Narrowings for want of evidence.
    harm: Early answers served that disagree, in expectation given the path.
    saving: Full-depth requests' worth of computing that was spared, less shadows.
    over_h: Hours with early answers while agreement was lost.
    under_h: Hours on target at a lower share than the oracle's.
    delays_h: Per loss of agreement that met the domain above 0: hours until a step down.
    undetected: Losses that met the domain above 0 and ended, or the run did, before a step down.
    top_after_h: Hours until the last stage was first entered; None: never.
    final: Share of traffic at the end.
    """

    promotions: int
    false_promotions: int
    step_downs: int
    false_step_downs: int
    blind_steps: int
    harm: float
    saving: float
    over_h: float
    under_h: float
    delays_h: tuple[float, ...]
    undetected: int
    top_after_h: float | None
    final: float


def outcome_of(spec: DomainSpec, truth: Truth, spared: float, path: Path, best: Path) -> Outcome:
    """Args:
    spared: Share of the layers that an early exit spares; a shadow costs them again.
    best: The oracle's path through the same truth.
    """
    gone, good = lost(spec, truth), on_target(spec, truth)
    early = truth.requests * path.weight
    hours = truth.width / timedelta(hours=1)
    down = [move for move in path.moves if move.after < move.before]
    judged = [move for move in down if move.rule not in BLIND_RULES]
    up = [move for move in path.moves if move.after > move.before]
    delays, undetected = _delays(gone, path, [move.tick for move in judged])
    top = next((move.tick for move in up if move.after == spec.stages[-1]), None)
    return Outcome(
        promotions=len(up),
        false_promotions=sum(bool(gone[move.tick]) for move in up),
        step_downs=len(judged),
        false_step_downs=sum(bool(good[move.tick]) for move in judged),
        blind_steps=len(down) - len(judged),
        harm=float((early * (1.0 - truth.agreement)).sum()),
        saving=float((early * truth.exit_share * spared * (1.0 - path.shadow)).sum()),
        over_h=float(((path.weight > 0) & gone).sum() * hours),
        under_h=float(((path.weight < best.weight) & good).sum() * hours),
        delays_h=tuple(delay * hours for delay in delays),
        undetected=undetected,
        top_after_h=None if top is None else (top + 1) * hours,
        final=path.moves[-1].after if path.moves else spec.stages[0],
    )


def _delays(gone: Bools, path: Path, steps: Sequence[int]) -> tuple[list[int], int]:
    """Ticks until the step down, per stretch of lost agreement that met the domain above 0."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], gone, [False]]).astype(int)))
    delays, undetected = [], 0
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if path.weight[begin] == 0:
            continue
        step = next((step for step in steps if begin <= step < end), None)
        if step is None:
            undetected += 1
        else:
            delays.append(int(step - begin + 1))
    return delays, undetected
