"""What a sample of losses in [0, 1] says of their mean: p-values, bounds, conformal risk control.

References:
    Angelopoulos, Bates, Candès, Jordan, Lei (2021), Learn then Test, sec. 2 (p-values of risks).
    Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting,
    sec. 4 (for losses between 0 and 1).
    Angelopoulos, Bates, Fisch, Lei, Schuster (2024), Conformal risk control, sec. 2 (theorem 1).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import beta, binom

from rollout.stats.betting import BETS, checked_losses, log_capital, log_mean


def risk_p_value(losses: ArrayLike, limit: float) -> float:
    """p-value against "mean loss > limit" from independent losses in [0, 1].

    The exact binomial one where every loss is 0 or 1. Else one over the largest mean capital that
    betting reached over the rows in their order, which certifies with some 30 % fewer rows than
    Hoeffding-Bentkus at even odds of success, and needs no independence.

    Args:
        losses: [rows]; none is no evidence.

    >>> round(risk_p_value([0.0] * 149 + [1.0], 0.05), 4)
    0.0041
    >>> round(risk_p_value([0.0] * 149 + [0.5], 0.05), 4)
    0.0025
    """
    values = checked_losses(losses)
    if not values.size:
        return 1.0
    if _all_or_nothing(values):
        return float(binom.cdf(values.sum(), len(values), limit))
    return math.exp(-_best_log_capital(values, limit))


def risk_upper_bound(losses: ArrayLike, alpha: float) -> float:
    """The limit whose p-value is alpha: the mean loss lies above it with chance at most alpha.

    >>> round(risk_upper_bound([0.0] * 149 + [1.0], 0.05), 4)
    0.0312
    """
    values = checked_losses(losses)
    total, rows = float(values.sum()), len(values)
    if not rows or total >= rows:
        return 1.0
    if _all_or_nothing(values):
        return float(beta.ppf(1 - alpha, total + 1, rows - total))
    needed, highest = math.log(1.0 / alpha), 1.0 - 1e-9
    if _best_log_capital(values, highest) <= needed:
        return 1.0
    # Capital rises with the limit.
    return float(
        brentq(lambda limit: _best_log_capital(values, limit) - needed, 1e-9, highest, xtol=1e-6)
    )


def conformal_choice(losses: ArrayLike, limit: float) -> int | None:
    """The boldest threshold whose *expected* loss at the next request is at most the limit.

    The expectation is over the calibrating rows, too: for about half of the calibration sets the
    risk lies above the limit. So it needs far fewer rows than a certificate, suits a forecast or a
    first proposal, and promotes nothing. Losses that fall with a bolder threshold are raised to the
    largest of the same row's safer ones, which keeps theorem 1 and only makes it careful.

    Args:
        losses: [rows, thresholds], in [0, 1], safest first, see `threshold_losses`; rows
            exchangeable with the next request.
        limit: In (0, 1).

    Returns:
        Index of the threshold; None where not even the safest qualifies.

    >>> conformal_choice(np.repeat([[0, 0, 0], [0, 1, 1], [0, 0, 1]], [90, 2, 8], axis=0), 0.05)
    1
    """
    if not 0.0 < limit < 1.0:
        raise ValueError(f"limit {limit} must lie strictly between 0 and 1")
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"losses {values.shape} must be [rows, thresholds]")
    rising = np.maximum.accumulate(checked_losses(values, values.shape[1]), axis=1)
    bounds = (rising.sum(axis=0) + 1.0) / (len(rising) + 1.0)  # [thresholds], rising
    count = int(np.count_nonzero(bounds <= limit))
    return count - 1 if count else None


def _best_log_capital(losses: NDArray[np.float64], limit: float) -> float:
    return float(log_mean(log_capital([0.0] * len(BETS), losses, limit)).max())


def _all_or_nothing(losses: NDArray[np.float64]) -> bool:
    return bool(((losses == 0.0) | (losses == 1.0)).all())
