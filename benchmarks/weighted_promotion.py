"""Requests sampled with unequal chances promote falsely as seldom as stated; ignoring it, often.

A fifth of the requests is sampled 2, 5 or 10 times as often as the rest, and errs half as often.
Agreement over all requests is at the floor of 0.95, where the chance of a false promotion is
largest; looked at after every sample, up to 4,000 of them, alpha 0.05. Beside it what the weights
cost: samples to promote at agreement 0.98.

With weights the chance is found by importance sampling (Siegmund 1976): under the distribution of
which the evidence E is the likelihood ratio promotions are common, and each counts 1 / E. The
standard error is then far below that of plain simulation, which weights ignored are left to.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.form import Measured
from rollout.stats.betting import BETS, log_capital, log_mean

ALPHA, FLOOR = 0.05, 0.95
RATIOS = (1, 2, 5, 10)
GUARDED, MILDER = 0.2, 0.5
RUNS, SAMPLES, STEP = 250, 4_000, 250

Floats = NDArray[np.float64]


def measure(quick: bool) -> Measured:
    rng = np.random.default_rng(20_240_603)
    blocks = 2 if quick else 8
    table: list[dict[str, Any]] = []
    for ratio in RATIOS:
        kinds = _kinds(FLOOR, ratio)
        false = np.concatenate([_false(rng, *kinds) for _ in range(blocks)])
        chances, losses, _ = kinds
        ignored = [_times(rng, chances, losses, None) for _ in range(blocks)]
        times = _times(rng, *_kinds(0.98, ratio))
        table.append(
            {
                "sampled": f"{ratio}:1",
                "false promotions": round(float(false.mean()), 4),
                "standard error": round(float(false.std() / len(false) ** 0.5), 4),
                "weights ignored": round(float(np.isfinite(ignored).mean()), 3),
                "mean samples at 0.98": round(float(np.mean(times[np.isfinite(times)]))),
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


def _kinds(agreement: float, ratio: int) -> tuple[Floats, Floats, Floats]:
    """What a sampled request may be, [kinds]: its chance, its loss, its weight."""
    rate = (1.0 - agreement) / (1.0 - GUARDED + GUARDED * MILDER)
    guarded = GUARDED * ratio / (1.0 - GUARDED + GUARDED * ratio)
    chances = np.array(
        [
            guarded * (1.0 - MILDER * rate),
            guarded * MILDER * rate,
            (1.0 - guarded) * (1.0 - rate),
            (1.0 - guarded) * rate,
        ]
    )
    return chances, np.array([0.0, 1.0, 0.0, 1.0]), np.repeat([1.0 / ratio, 1.0], 2)


def _times(
    rng: np.random.Generator, chances: Floats, losses: Floats, weights: Floats | None
) -> Floats:
    """Samples to promotion, [RUNS]; infinite where there is none."""
    drawn = np.tile(chances.cumsum()[:, None], RUNS)
    return _followed(rng, drawn, losses, weights)[0]


def _false(rng: np.random.Generator, chances: Floats, losses: Floats, weights: Floats) -> Floats:
    """1 / E at promotion, 0 without one, [RUNS]: its mean is the chance of a false promotion."""
    steps = np.diff(log_capital(np.zeros(len(BETS)), losses, 1.0 - FLOOR, weights), axis=0)
    tilted = chances[:, None] * np.exp(steps)  # [kinds, bets], each column a distribution
    drawn = tilted.cumsum(axis=0)[:, np.arange(RUNS) % len(BETS)]
    times, log_e = _followed(rng, drawn, losses, weights)
    return np.where(np.isfinite(times), np.exp(-log_e), 0.0)


def _followed(
    rng: np.random.Generator, cumulative: Floats, losses: Floats, weights: Floats | None
) -> tuple[Floats, Floats]:
    """Samples to promotion and log E then, from cumulative chances [kinds, RUNS]."""
    needed = math.log(1.0 / ALPHA)
    logs = np.zeros((RUNS, len(BETS)))
    times, log_e = np.full(RUNS, math.inf), np.zeros(RUNS)
    for seen in range(0, SAMPLES, STEP):
        draws = rng.random((STEP, RUNS))
        kinds = (draws[:, None] >= cumulative[:-1]).sum(axis=1)  # [STEP, RUNS]
        weight = None if weights is None else weights[kinds]
        path = log_capital(logs, losses[kinds], 1.0 - FLOOR, weight)  # [STEP + 1, RUNS, bets]
        evidence = log_mean(path)
        reached = evidence >= needed
        first = reached.argmax(axis=0)
        fresh = np.flatnonzero(reached.any(axis=0) & np.isinf(times))
        times[fresh] = seen + first[fresh]
        log_e[fresh] = evidence[first[fresh], fresh]
        logs = path[-1]
        if np.isfinite(times).all():
            break
    return times, log_e
