"""Which bolder threshold is certified: a domain's ladder of thresholds, climbed by every trace.

All thresholds are judged by the same traces, whichever is live, so the evidence stays when the live
threshold moves. What ends a ladder is what changes the risks: other heads, another promise, an
alarm. The next one then starts from nothing, with the next share of alpha, so that the chance that
any loosening of the domain is ever wrong is at most alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from numpy.typing import ArrayLike

from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState, Ladder, tolerated
from rollout.stats.ladder import ThresholdLadder, alpha_share


def wants_ladder(spec: DomainSpec, state: DomainState) -> bool:
    """Whether traces are to be judged for loosening at all."""
    return state.policy_version is not None and "threshold" in spec.levers.up


def standing_ladder(
    spec: DomainSpec, state: DomainState, heads: str, thresholds: Sequence[float]
) -> DomainState:
    """The state with a ladder for these heads: the one it has, or the domain's next.

    Args:
        heads: Content hash of the live policy's exit heads.
        thresholds: Falling candidates for a new ladder, proposed by other rows than will judge
            them: those that calibration tried.
    """
    limit = tolerated(spec.agreement.target)
    here = state.ladder
    if here is not None and here.heads == heads and here.test.limit == limit:
        return state
    if not thresholds:
        return replace(state, ladder=None)
    number = state.ladders + 1
    test = ThresholdLadder.start(thresholds, limit, alpha_share(spec.agreement.alpha, number))
    return replace(state, ladder=Ladder(heads, test), ladders=number)


def climb(state: DomainState, losses: ArrayLike) -> DomainState:
    """The state after these traces; losses [traces, thresholds] of the ladder's thresholds."""
    if state.ladder is None:
        return state
    return replace(state, ladder=replace(state.ladder, test=state.ladder.test.update(losses)))
