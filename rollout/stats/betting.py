"""The bets that `ThresholdLadder` and `WeightedPromotionTest` place against "mean loss >= limit".

For losses x in [0, 1] and bets lambda_j in (0, 1) the capital is multiplied at every observation by
1 + lambda_j w (limit - x) / (1 - limit), w = lowest / probability in (0, 1]. While the conditional
mean of the loss is at least the limit, each capital is a nonnegative supermartingale that starts at
1, and so is their mean: by Ville's inequality it ever reaches 1 / alpha with chance at most alpha.

For 0/1 losses without weights a bet lambda is the likelihood ratio of an error rate
limit * (1 - lambda) against the limit, so with these bets the mean capital is the mixture of
`PromotionTest`. The mean capital falls as the limit falls: a bet loses lambda at a loss of 1
whatever the limit, and wins less at a loss of 0.

References:
    Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting,
    sec. 4.1 (capital processes) and sec. 4.4 (a grid of bets, averaged).
    Waudby-Smith, Wu, Ramdas, Karampatziakis, Mineiro (2024), Anytime-valid off-policy inference for
    contextual bandits, sec. 3 (weights by inverse probabilities, bounded by the lowest one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.stats.promotion import ALTERNATIVES, LARGEST_LOG, observations_until

BETS = ALTERNATIVES
"""The lambda_j."""


def log_capital(
    start: ArrayLike,
    losses: NDArray[np.float64],
    limit: float,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The logarithm of every bet's capital before the first and after every observation.

    Summed strictly in order, so the split into batches is immaterial to the last bit.

    Args:
        start: [..., bets], the logarithms so far.
        losses: [n, ...], in [0, 1].
        limit: In (0, 1).
        weights: [n, ...], in (0, 1]; None is 1.

    Returns:
        [n + 1, ..., bets].
    """
    gain = (limit - losses) / (1.0 - limit)
    if weights is not None:
        gain = gain * weights
    growth = np.log1p(gain[..., None] * np.array(BETS))
    return np.cumsum(np.concatenate([np.asarray(start, dtype=np.float64)[None], growth]), axis=0)


def log_mean(log_capitals: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm of the mean capital, over the last axis."""
    largest = log_capitals.max(axis=-1)
    parts = np.exp(log_capitals - largest[..., None])
    return np.asarray(largest + np.log(parts.mean(axis=-1)))


def to_e_value(log_e: float) -> float:
    """E, cut off at e^700 so that it stays a finite float."""
    return math.exp(min(log_e, LARGEST_LOG))


def checked_losses(losses: ArrayLike, columns: int | None = None) -> NDArray[np.float64]:
    """Losses as floats, [n] or [n, columns]. Raises ValueError for another shape or range."""
    values = np.asarray(losses, dtype=np.float64)
    if not values.size:
        values = values.reshape((0,) if columns is None else (0, columns))
    if values.ndim != (1 if columns is None else 2) or (columns and values.shape[1] != columns):
        wanted = "[n]" if columns is None else f"[n, {columns}]"
        raise ValueError(f"losses {values.shape} must be {wanted}")
    if values.size and not (values.min() >= 0.0 and values.max() <= 1.0):
        raise ValueError("a loss must lie in [0, 1]; divide severities by the largest one")
    return values


def checked_weights(probabilities: ArrayLike, lowest: ArrayLike, count: int) -> NDArray[np.float64]:
    """w = lowest / probability, [count].

    Raises:
        ValueError: for a probability outside (0, 1] or below the lowest, or another shape.
    """
    sampled = np.asarray(probabilities, dtype=np.float64)
    least = np.broadcast_to(np.asarray(lowest, dtype=np.float64), sampled.shape)
    if sampled.shape != (count,):
        raise ValueError(f"{count} losses but sampling probabilities {sampled.shape}")
    if not ((sampled > 0.0) & (sampled <= 1.0)).all():
        raise ValueError(
            "a sampling probability must lie in (0, 1]: what can never be sampled cannot be judged"
        )
    if not ((least > 0.0) & (least <= sampled)).all():
        raise ValueError(
            f"the lowest sampling probability must lie above 0 and at most at every row's; "
            f"lowest {least.min():g} to {least.max():g}, rows from {sampled.min():g}"
        )
    return least / sampled


def more_needed(log_capitals: Sequence[float], seen: int, alpha: float) -> int | None:
    """About how many more observations until the mean capital is 1 / alpha, should all go on as is.

    Every bet's logarithm grows on at its mean rate so far. 0 where it is there already; None before
    the first observation or where no bet has won anything so far.
    """
    needed = math.log(1.0 / alpha)
    if float(log_mean(np.array(log_capitals))) >= needed:
        return 0
    if not seen or max(log_capitals) <= 0.0:
        return None
    return observations_until(needed, log_capitals, [log / seen for log in log_capitals])
