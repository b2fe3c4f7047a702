"""Where exits stand: the exit layers with the largest expected saving, net of their probes.

Judged on traces at all candidate layers, of rows that certify nothing afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

EXACT_CANDIDATES = 7
"""Up to this many candidates every subset is tried."""
THRESHOLDS = 40


@dataclass(frozen=True)
class Expected:
    """What one confidence threshold for all exits is expected to do.

    Attributes:
        net_saving: Share of the full depth saved, net of probes; at most 0 where nothing is.
        threshold: 1.0, which nobody reaches, where no threshold keeps within the limit.
        risk: Share of requests expected to be answered differently from full depth.
    """

    net_saving: float
    threshold: float
    risk: float


def working_limit(risk_limit: float, certifying_rows: int, alpha: float) -> float:
    """The observed risk up to which so many rows certify `risk_limit` (exact binomial test).

    Where no number of mismatches would do, half of the limit.

    >>> working_limit(0.02, 1000, 0.05)
    0.012
    >>> working_limit(0.02, 0, 0.05)
    0.01
    """
    most = int(binom.ppf(alpha, certifying_rows, risk_limit)) - 1 if certifying_rows else -1
    return most / certifying_rows if most >= 1 else risk_limit / 2


def expected_saving(
    confidence: NDArray[np.float64],
    agrees: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    layers: Sequence[int],
    depth: int,
    probe_cost: float,
    limit: float,
) -> Expected:
    """The best threshold among quantiles of the confidences.

    A threshold's risk is the larger of the mismatches seen and those its confidences predict: few
    rows that happen to hold no mismatch do not make it safe.

    Args:
        confidence, agrees, allowed: [rows, exits], as in `stats.traces`.
        layers: Rising, one per exit.
        probe_cost: In layers.
        limit: The tolerated risk.
    """
    usable = np.where(allowed, confidence, -1.0)
    levels = np.linspace(0.0, 1.0, THRESHOLDS)
    thresholds = np.unique(np.quantile(usable.max(axis=1), levels, method="inverted_cdf"))
    thresholds = thresholds[thresholds >= 0]
    takes = usable[None] >= thresholds[:, None, None]  # [thresholds, rows, exits]
    exits = takes.any(axis=2)
    first = np.where(exits, takes.argmax(axis=2), len(layers))
    run = np.array([*layers, depth])[first].mean(axis=1)
    probes = np.minimum(first + 1, len(layers)).mean(axis=1)
    rows = np.arange(len(usable))
    asked = np.minimum(first, len(layers) - 1)
    wrong = np.where(exits, ~agrees[rows, asked], 0.0).mean(axis=1)
    doubt = np.where(exits, 1 - usable[rows, asked], 0.0).mean(axis=1)
    saving = 1 - (run + probe_cost * probes) / depth
    risk = np.maximum(wrong, doubt)
    saving = np.where(risk <= limit, saving, -np.inf)
    if not saving.size or saving.max() == -np.inf:
        return Expected(-probe_cost * len(layers) / depth, 1.0, 0.0)
    best = int(saving.argmax())
    return Expected(float(saving[best]), float(thresholds[best]), float(risk[best]))


def place_exits(
    confidence: NDArray[np.float64],
    agrees: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    layers: Sequence[int],
    depth: int,
    probe_cost: float,
    limit: float,
) -> tuple[int, ...]:
    """The subset of the candidate layers that saves most, at least one of them.

    Every subset is tried where they are few. Otherwise layers are added one by one while that
    saves more, each addition followed by removals while these do (sequential floating forward
    selection, Pudil, Novovičová and Kittler 1994, section 2).

    Args:
        confidence, agrees, allowed: [rows, candidates].
        layers: The candidates, rising.
    """

    def saving(subset: Sequence[int]) -> float:
        chosen = list(subset)
        return expected_saving(
            confidence[:, chosen],
            agrees[:, chosen],
            allowed[:, chosen],
            [layers[place] for place in chosen],
            depth,
            probe_cost,
            limit,
        ).net_saving

    places = range(len(layers))
    if len(layers) <= EXACT_CANDIDATES:
        subsets = (
            subset
            for size in range(1, len(layers) + 1)
            for subset in itertools.combinations(places, size)
        )
        best: tuple[int, ...] = max(subsets, key=saving)
    else:
        best = _floating(places, saving)
    return tuple(layers[place] for place in best)


def _floating(places: Sequence[int], saving: Callable[[Sequence[int]], float]) -> tuple[int, ...]:
    chosen: tuple[int, ...] = ()
    reached = -np.inf
    while len(chosen) < len(places):
        grown = [tuple(sorted({*chosen, place})) for place in places if place not in chosen]
        best = max(grown, key=saving)
        if saving(best) <= reached:
            break
        chosen, reached = best, saving(best)
        while len(chosen) > 2:
            shrunk = max(itertools.combinations(chosen, len(chosen) - 1), key=saving)
            if saving(shrunk) <= reached:
                break
            chosen, reached = shrunk, saving(shrunk)
    return chosen
