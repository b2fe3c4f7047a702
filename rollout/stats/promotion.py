"""Anytime-valid evidence that agreement lies above a floor: when may a stage be promoted?

A likelihood-ratio mixture test martingale: for alternatives q_k above the floor t,
E_n = mean_k prod_i (q_k / t on a match, (1 - q_k) / (1 - t) on a mismatch). Under any agreement
<= t, E is a nonnegative supermartingale that starts at 1, so by Ville's inequality it ever reaches
1 / alpha with probability at most alpha, however often one looks.

References:
    Ville (1939), Étude critique de la notion de collectif, ch. V (the inequality).
    Robbins (1970), Statistical methods related to the law of the iterated logarithm, sec. 3
    (mixtures of likelihood ratios).
    Ramdas, Grünwald, Vovk, Shafer (2023), Game-theoretic statistics and safe anytime-valid
    inference, sec. 2 (test martingales).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALTERNATIVES = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Where the alternatives lie between the floor (0) and perfect agreement (1)."""

LARGEST_LOG = 700.0
"""Just under the logarithm of the largest float."""


@dataclass(frozen=True)
class PromotionTest:
    """Evidence against "agreement <= floor".

    With independent comparisons E depends on two counts alone, so these are the whole state and
    neither the order nor the batching of updates matters.

    Attributes:
        floor: The agreement to be certified, in (0, 1).
        count: Comparisons seen.
        mismatches: Comparisons in which the early answer differed.

    >>> test = PromotionTest.start(0.95).update([True] * 81)
    >>> round(test.e_value, 1)
    20.1
    >>> PromotionTest.from_json(test.to_json()) == test
    True
    """

    floor: float
    count: int = 0
    mismatches: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.floor < 1.0:
            raise ValueError(f"floor {self.floor} must lie strictly between 0 and 1")
        if not 0 <= self.mismatches <= self.count:
            raise ValueError(f"{self.mismatches} mismatches among {self.count} comparisons")

    @classmethod
    def start(cls, floor: float) -> PromotionTest:
        """A test without evidence yet: E = 1. Raises ValueError for a floor outside (0, 1)."""
        return cls(floor)

    def update(self, matched: NDArray[np.bool_] | Sequence[bool]) -> PromotionTest:
        """The test after these comparisons."""
        matched = np.asarray(matched, dtype=bool)
        return PromotionTest(
            self.floor,
            self.count + matched.size,
            self.mismatches + matched.size - int(np.count_nonzero(matched)),
        )

    @property
    def agreement(self) -> float | None:
        """Share of matches; None before the first comparison."""
        return 1.0 - self.mismatches / self.count if self.count else None

    @property
    def log_e_value(self) -> float:
        """Natural logarithm of E: finite for any counts."""
        matches = self.count - self.mismatches
        return _log_mean_exp(
            [
                matches * on_match + self.mismatches * on_mismatch
                for on_match, on_mismatch in _log_ratios(self.floor)
            ]
        )

    @property
    def e_value(self) -> float:
        """E, cut off at e^700 so that it stays a finite float."""
        return math.exp(min(self.log_e_value, LARGEST_LOG))

    def to_json(self) -> dict[str, Any]:
        return {"floor": self.floor, "count": self.count, "mismatches": self.mismatches}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> PromotionTest:
        return cls(values["floor"], values["count"], values["mismatches"])


def expected_more(test: PromotionTest, alpha: float, agreement: float) -> int | None:
    """About how many more comparisons until E >= 1 / alpha, should `agreement` go on.

    Follows the mean path: every log likelihood ratio grows by its expectation under `agreement`.
    0 where E is there already; None where `agreement` is so low that no alternative grows, which
    is so at and just above the floor.

    >>> expected_more(PromotionTest.start(0.95), alpha=0.05, agreement=1.0)
    81
    >>> expected_more(PromotionTest.start(0.95), alpha=0.05, agreement=0.95) is None
    True
    """
    needed = math.log(1.0 / alpha)
    if test.log_e_value >= needed:
        return 0
    ratios = _log_ratios(test.floor)
    matches = test.count - test.mismatches
    now = [matches * match + test.mismatches * mismatch for match, mismatch in ratios]
    growth = [agreement * match + (1.0 - agreement) * mismatch for match, mismatch in ratios]
    if max(growth) <= 0.0:
        return None

    return observations_until(needed, now, growth)


def observations_until(needed: float, now: Sequence[float], growth: Sequence[float]) -> int:
    """How many steps of `growth` until log mean exp of `now` reaches `needed`.

    Args:
        needed: Above log mean exp of `now`.
        now: Logarithms, per alternative.
        growth: What each gains a step; at least one gains.
    """

    def enough(more: int) -> bool:
        path = [level + more * rate for level, rate in zip(now, growth, strict=True)]
        return _log_mean_exp(path) >= needed

    # The path is convex in the number of steps and starts below the line: it crosses once.
    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _log_ratios(floor: float) -> list[tuple[float, float]]:
    """Per alternative: the log likelihood ratio of a match and of a mismatch."""
    alternatives = [floor + (1.0 - floor) * part for part in ALTERNATIVES]
    return [
        (math.log(better / floor), math.log((1.0 - better) / (1.0 - floor)))
        for better in alternatives
    ]


def _log_mean_exp(logs: list[float]) -> float:
    largest = max(logs)
    return largest + math.log(sum(math.exp(log - largest) for log in logs) / len(logs))
