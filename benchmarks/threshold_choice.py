"""Choosing among 20 nested thresholds at every look seldom takes a risk that is over the limit.

Every request has one hidden level; a threshold of risk r answers wrongly where it lies below r, so
bolder thresholds repeat the mistakes of safer ones. Risks run from 0.25 % to 5 %, one of them just
over the limit of 2.5 %; 4,000 requests, alpha 0.05. A run fails if a threshold whose risk is over
the limit is ever chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from benchmarks.form import Measured
from rollout.stats.ladder import ThresholdLadder

ALPHA, LIMIT, ROWS = 0.05, 0.025, 4_000
# The eleventh of 20 evenly spaced risks is 2.75 %; it is moved to just over the limit.
RISKS = np.linspace(0.0025, 0.05, 20)
RISKS[10] = LIMIT + 1e-4
THRESHOLDS = tuple(float(value) for value in np.linspace(1.0, 0.05, 20))
SAFE = int((RISKS <= LIMIT).sum())

Losses = NDArray[np.bool_]
Counts = NDArray[np.int64]


def measure(quick: bool) -> Measured:
    rng = np.random.default_rng(20_240_604)
    runs = 300 if quick else 1_000
    rules: dict[str, Callable[[Losses], int]] = {
        "ladder of e-processes, every sample (ours)": _ladder,
        "empirical risk, one look": lambda losses: _chosen(losses, _empirical, ROWS),
        "empirical risk, every 100": lambda losses: _chosen(losses, _empirical, 100),
        "fixed sequence, exact binomial, one look": lambda losses: _chosen(losses, _fixed, ROWS),
        "fixed sequence, exact binomial, every 100": lambda losses: _chosen(losses, _fixed, 100),
    }
    boldest: dict[str, list[int]] = {name: [] for name in rules}
    for _ in range(runs):
        losses = rng.random((ROWS, 1)) < RISKS
        for name, choose in rules.items():
            boldest[name].append(choose(losses))
    risks = np.append(0.0, RISKS)
    table: list[dict[str, Any]] = [
        {
            "rule": name,
            "over the limit": round(float(np.mean(np.array(chosen) > SAFE)), 4),
            "mean risk of the boldest chosen": f"{risks[chosen].mean():.2%}",
        }
        for name, chosen in boldest.items()
    ]
    ours = float(table[0]["over the limit"])
    return Measured(
        name="threshold_choice",
        value=ours,
        unit="chance that a chosen threshold's risk is over the limit",
        bar=f"<= {ALPHA}",
        holds=ours <= ALPHA,
        details={"runs": runs, "limit": LIMIT, "by rule": table},
    )


def _ladder(losses: Losses) -> int:
    """How many thresholds were ever certified."""
    certified = ThresholdLadder.start(THRESHOLDS, LIMIT, ALPHA).update(losses).certified
    return 0 if certified is None else certified + 1


def _chosen(losses: Losses, passes: Callable[[Counts, Counts], Losses], every: int) -> int:
    """Up to which threshold the rule ever went, looking every so many rows."""
    rows = np.arange(every, ROWS + 1, every)
    mismatches = losses.cumsum(axis=0)[rows - 1]  # [looks, thresholds]
    passed = passes(mismatches, rows[:, None])  # [looks, thresholds]
    return int((passed * np.arange(1, len(RISKS) + 1)).max())


def _empirical(mismatches: Counts, rows: Counts) -> Losses:
    return np.asarray(mismatches <= LIMIT * rows)


def _fixed(mismatches: Counts, rows: Counts) -> Losses:
    certified = np.asarray(binom.cdf(mismatches, rows, LIMIT)) <= ALPHA
    return np.logical_and.accumulate(certified, axis=1)
