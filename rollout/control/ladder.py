"""Which bolder threshold is certified: a domain's ladder of thresholds, climbed by every trace.

All thresholds are judged by the same traces, whichever is live, so the evidence stays when the live
threshold moves. What ends a ladder is what changes the risks: other heads, another promise, a
setback. The next one then starts from nothing, with the next share of alpha, so that the chance
that any loosening of the domain is ever wrong is at most alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState, Ladder, tolerated
from rollout.control.steering import AgreementSpec
from rollout.stats.ladder import ThresholdLadder, alpha_share
from rollout.values import DepthTrace

GRID = (1.0, *(round(0.99 - 0.02 * step, 2) for step in range(20)))
"""Thresholds for a ladder where calibration tried none: no rows proposed them."""


def ladder_of(spec: DomainSpec, state: DomainState, heads: str) -> Ladder | None:
    """The domain's ladder, where it is one for these heads and the spec's target."""
    here = state.ladder
    fits = (
        here is not None
        and here.heads == heads
        and here.test.limit == tolerated(spec.agreement.target)
    )
    return here if fits else None


def with_new_ladder(
    spec: DomainSpec, state: DomainState, heads: str, thresholds: Sequence[float]
) -> DomainState:
    """The state with the domain's next ladder.

    Args:
        heads: Content hash of the live policy's exit heads.
        thresholds: Candidates, proposed by other rows than will judge them: those that calibration
            tried. None of them: a fixed grid.
    """
    falling = sorted(set(thresholds or GRID), reverse=True)
    number = state.ladders + 1
    share = alpha_share(spec.agreement.alpha, number)
    test = ThresholdLadder.start(falling, tolerated(spec.agreement.target), share)
    return replace(state, ladder=Ladder(heads, test), ladders=number)


def climbed(ladder: Ladder, losses: ArrayLike) -> Ladder:
    """The ladder after these traces; losses [traces, thresholds]."""
    return replace(ladder, test=ladder.test.update(losses))


def trace_severity(
    promise: AgreementSpec, traces: Sequence[DepthTrace], labels: Sequence[str]
) -> NDArray[np.float64] | None:
    """What each exit's answer would cost if wrong, [traces, exits]; None: 1 everywhere."""
    if not promise.severity:
        return None
    return np.array(
        [
            [promise.loss(labels[trace.full_answer], labels[point.answer]) for point in trace.exits]
            for trace in traces
        ]
    )
