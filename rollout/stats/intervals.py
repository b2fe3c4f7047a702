"""Intervals for agreement: anytime-valid ones for watching, fixed-time ones for reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaln
from scipy.stats import beta

_PRIOR = 0.5


def confidence_sequence(count: int, mismatches: int, alpha: float) -> tuple[float, float]:
    """Lower and upper bound of agreement, valid at every look at once with error <= alpha.

    The beta-binomial mixture: all rates r for which
    B(1/2 + matches, 1/2 + mismatches) / B(1/2, 1/2) < r^matches (1 - r)^mismatches / alpha.
    The left side over the likelihood of the true rate is a test martingale, so Ville's inequality
    bounds the chance that the truth ever falls out. Two-sided, hence wider than the one-sided
    `PromotionTest` that decides.

    References: Robbins (1970), Statistical methods related to the law of the iterated logarithm,
    sec. 3 (beta mixture for Bernoulli rates); the mixing density is that of Krichevsky and
    Trofimov (1981), which is tight where mismatches are rare.

    Raises:
        ValueError: for impossible counts or alpha outside (0, 1).

    >>> confidence_sequence(0, 0, 0.05)
    (0.0, 1.0)
    >>> [round(bound, 3) for bound in confidence_sequence(500, 5, 0.05)]
    [0.965, 0.999]
    """
    _check_alpha(alpha)
    if not 0 <= mismatches <= count:
        raise ValueError(f"{mismatches} mismatches among {count} comparisons")
    if count == 0:
        return 0.0, 1.0
    matches = count - mismatches
    mixture = float(betaln(_PRIOR + matches, _PRIOR + mismatches) - betaln(_PRIOR, _PRIOR))
    needed = math.log(1.0 / alpha)

    def excess(rate: float) -> float:
        likelihood = (matches * math.log(rate) if matches else 0.0) + (
            mismatches * math.log1p(-rate) if mismatches else 0.0
        )
        return mixture - likelihood - needed

    smallest = 1e-12
    estimate = min(max(matches / count, smallest), 1.0 - smallest)
    lower = float(brentq(excess, smallest, estimate)) if excess(smallest) > 0.0 else 0.0
    upper = float(brentq(excess, estimate, 1.0 - smallest)) if excess(1 - smallest) > 0.0 else 1.0
    return lower, upper


class WeightedInterval(NamedTuple):
    """A share and its two-sided confidence interval."""

    estimate: float
    lower: float
    upper: float


def weighted_interval(
    weights: NDArray[np.float64] | Sequence[float],
    matched: NDArray[np.bool_] | Sequence[bool],
    alpha: float,
) -> WeightedInterval | None:
    """Agreement of all requests from the compared ones, each weighted by 1 / inclusion probability.

    For one look at one fixed time, as in a weekly report; not for decisions. The estimate is
    Hájek's: sum(w * matched) / sum(w). The interval is an approximation: Clopper-Pearson at Kish's
    effective size (sum w)^2 / sum w^2 in place of the count. With equal weights both are exact.

    References: Hájek (1971), comment on Basu; Kish (1965), Survey Sampling, sec. 11.7; Korn and
    Graubard (1998), Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data, sec. 3 (effective size in Clopper-Pearson).

    Returns:
        None where nothing was compared.

    Raises:
        ValueError: for weights that are not positive and finite, unequal lengths, or a wrong alpha.

    >>> [round(value, 3) for value in weighted_interval([1.0] * 100, [True] * 99 + [False], 0.05)]
    [0.99, 0.946, 1.0]
    >>> weighted_interval([], [], 0.05) is None
    True
    """
    _check_alpha(alpha)
    weights = np.asarray(weights, dtype=np.float64)
    matched = np.asarray(matched, dtype=bool)
    if weights.shape != matched.shape or weights.ndim != 1:
        raise ValueError(f"weights {weights.shape} and matched {matched.shape} must be two lists")
    if not weights.size:
        return None
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError("weights must be positive and finite: no inclusion probability may be 0")
    total = float(weights.sum())
    estimate = float(weights[matched].sum()) / total
    size = total**2 / float((weights**2).sum())
    return WeightedInterval(estimate, *clopper_pearson(estimate * size, size, alpha))


def clopper_pearson(matches: float, count: float, alpha: float) -> tuple[float, float]:
    """The exact two-sided binomial interval; real-valued counts stand for effective sizes.

    Reference: Clopper and Pearson (1934), The use of confidence or fiducial limits illustrated in
    the case of the binomial.

    >>> [round(bound, 4) for bound in clopper_pearson(10, 10, 0.05)]
    [0.6915, 1.0]
    """
    tiny = 1e-9 * count
    misses = count - matches
    lower = 0.0 if matches <= tiny else float(beta.ppf(alpha / 2, matches, misses + 1))
    upper = 1.0 if misses <= tiny else float(beta.ppf(1 - alpha / 2, matches + 1, misses))
    return lower, upper


def _check_alpha(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha {alpha} must lie strictly between 0 and 1")
