"""Requests sampled with unequal chances promote falsely as seldom as stated; ignoring it, often.

A fifth of the requests is sampled 2, 5 or 10 times as often as the rest, and errs half as often.
Agreement over all requests lies 0.0001 under the floor of 0.95; looked at after every sample, up to
4,000 of them, alpha 0.05. Beside it what the weights cost: samples to promote at agreement 0.98.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.form import Measured
from rollout.stats.betting import BETS, log_capital, log_mean

ALPHA, FLOOR, BELOW = 0.05, 0.95, 1e-4
RATIOS = (1, 2, 5, 10)
GUARDED, MILDER = 0.2, 0.5
RUNS, SAMPLES, STEP = 250, 4_000, 250


def measure(quick: bool) -> Measured:
    rng = np.random.default_rng(20_240_603)
    blocks = 4 if quick else 16
    table: list[dict[str, Any]] = []
    for ratio in RATIOS:
        found = [_promotions(rng, FLOOR - BELOW, ratio) for _ in range(blocks)]
        false, unweighted, _ = np.mean(found, axis=0)
        *_, samples = _promotions(rng, 0.98, ratio)
        table.append(
            {
                "sampled": f"{ratio}:1",
                "false promotions": round(float(false), 4),
                "weights ignored": round(float(unweighted), 4),
                "mean samples at 0.98": round(samples),
            }
        )
    worst = max(row["false promotions"] for row in table)
    return Measured(
        name="weighted_promotion",
        value=worst,
        unit="largest chance of a false promotion",
        bar=f"<= {ALPHA} at every ratio",
        holds=worst <= ALPHA,
        details={"runs": blocks * RUNS, "false promotions by sampling ratio": table},
    )


def _promotions(
    rng: np.random.Generator, agreement: float, ratio: int
) -> tuple[float, float, float]:
    """Share of runs ever promoted, the same with weights ignored, mean samples to promotion."""
    needed = math.log(1.0 / ALPHA)
    weighted = ignoring = np.zeros((RUNS, len(BETS)))
    promoted_ignoring = np.zeros(RUNS, dtype=bool)
    samples = np.full(RUNS, math.nan)
    for seen in range(0, SAMPLES, STEP):
        losses, weights = _sampled(rng, agreement, ratio)
        path = log_capital(weighted, losses, 1.0 - FLOOR, weights)  # [STEP + 1, RUNS, bets]
        reached = log_mean(path) >= needed  # [STEP + 1, RUNS]
        fresh = reached.any(axis=0) & np.isnan(samples)
        samples[fresh] = seen + reached.argmax(axis=0)[fresh]
        weighted = path[-1]
        path = log_capital(ignoring, losses, 1.0 - FLOOR)
        promoted_ignoring |= (log_mean(path) >= needed).any(axis=0)
        ignoring = path[-1]
    promoted = float(np.isfinite(samples).mean())
    return promoted, float(promoted_ignoring.mean()), float(np.nanmean(samples))


def _sampled(
    rng: np.random.Generator, agreement: float, ratio: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses and weights (lowest over own sampling probability) of sampled ones, [STEP, RUNS]."""
    rate = (1.0 - agreement) / (1.0 - GUARDED + GUARDED * MILDER)
    among_sampled = GUARDED * ratio / (1.0 - GUARDED + GUARDED * ratio)
    guarded = rng.random((STEP, RUNS)) < among_sampled
    wrong = rng.random((STEP, RUNS)) < np.where(guarded, MILDER * rate, rate)
    return wrong.astype(np.float64), np.where(guarded, 1.0 / ratio, 1.0)
