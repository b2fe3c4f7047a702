"""Rules that promote on two counts alone, judged exactly by dynamic programming.

A rule is its boundary: per count of comparisons the most mismatches with which it promotes, -1
where none is few enough. Looking after every comparison, a rollout is promoted at the first count
at which it is within the boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln
from scipy.stats import binom, norm

from rollout.stats.promotion import PromotionTest

Boundary = NDArray[np.int64]


class Promotions(NamedTuple):
    """Chance of ever promoting within the horizon, and mean comparisons of those that do."""

    chance: float
    mean_count: float


def judge(truth: float, boundary: Boundary) -> Promotions:
    """What a rule does to a policy of agreement `truth`."""
    error = 1.0 - truth
    counts = np.arange(1, len(boundary) + 1)
    # Mismatch counts so high that they hold less than 1e-12 of the chance are let go.
    most = np.ones_like(counts)
    if error > 0.0:
        most = np.asarray(binom.isf(1e-12, counts, error), dtype=np.int64) + 2
    waiting = np.zeros(int(most[-1]) + 2)  # [mismatches]
    waiting[0] = 1.0
    promoted = count_sum = 0.0
    for count, (limit, width) in enumerate(zip(boundary, most, strict=True), start=1):
        part = waiting[: width + 1]
        moved = part * truth
        moved[1:] += part[:-1] * error
        now = float(moved[: limit + 1].sum())
        moved[: limit + 1] = 0.0
        waiting[: width + 1] = moved
        promoted += now
        count_sum += count * now
    return Promotions(promoted, count_sum / promoted if promoted else math.nan)


def boundary_of(promotes: Callable[[int, int], bool], horizon: int) -> Boundary:
    """The boundary of a rule that a match never hurts and a mismatch never helps."""
    most, found = -1, np.empty(horizon, dtype=np.int64)
    for count in range(1, horizon + 1):
        while most + 1 <= count and promotes(count, most + 1):
            most += 1
        found[count - 1] = most
    return found


def promotion_test(floor: float, alpha: float, horizon: int) -> Boundary:
    """Our rule: the mixture's E reaches 1 / alpha."""
    needed = math.log(1.0 / alpha)
    return boundary_of(
        lambda count, wrong: PromotionTest(floor, count, wrong).log_e_value >= needed, horizon
    )


def sprt(floor: float, truth: float, alpha: float, horizon: int) -> Boundary:
    """Wald's sequential probability ratio test of the known truth; without a side that gives up."""
    needed = math.log(1.0 / alpha)
    match, mismatch = math.log(truth / floor), -math.inf
    if truth < 1.0:
        mismatch = math.log((1.0 - truth) / (1.0 - floor))
    return boundary_of(
        lambda count, wrong: (
            (count - wrong) * match + (wrong * mismatch if wrong else 0.0) >= needed
        ),
        horizon,
    )


def beta_mixture(floor: float, alpha: float, horizon: int) -> Boundary:
    """The two-sided confidence sequence that people are shown lies above the floor."""

    def promotes(count: int, wrong: int) -> bool:
        matches = count - wrong
        likelihood = matches * math.log(floor) + wrong * math.log1p(-floor)
        mixture = float(betaln(0.5 + matches, 0.5 + wrong) - betaln(0.5, 0.5))
        return matches > floor * count and mixture - likelihood >= math.log(1.0 / alpha)

    return boundary_of(promotes, horizon)


def clopper_pearson(floor: float, alpha: float, horizon: int) -> Boundary:
    """The exact one-sided lower bound of one look lies above the floor."""
    counts = np.arange(1, horizon + 1)
    most = np.asarray(binom.ppf(alpha, counts, 1.0 - floor), dtype=np.int64)
    over = np.asarray(binom.cdf(most, counts, 1.0 - floor)) > alpha
    return np.where(over, most - 1, most)


def wilson(floor: float, alpha: float, horizon: int) -> Boundary:
    """Wilson's one-sided lower bound of one look lies above the floor."""
    z = float(norm.isf(alpha))
    counts = np.arange(1, horizon + 1)
    # The bound lies above the floor where the score of the floor is z or more.
    spare = z * np.sqrt(counts * floor * (1.0 - floor))
    return np.asarray(np.ceil(counts * (1.0 - floor) - spare), dtype=np.int64) - 1
