"""Agreement relative to a noise ceiling: how often the full model agrees with itself.

Where full depth is not deterministic (sampling, batches in bfloat16), an early answer that is as
good as the full one still differs from it as often as two full answers differ. Full-against-full
pairs measure that ceiling; what is promised is agreement >= floor * ceiling. A ratio, since early
answers that are spoilt in a share d of requests, whatever the noise, agree (1 - d) times as often
as full ones: floor 0.95 keeps its meaning of "at most one in twenty spoilt".

Certified at level alpha, at every look at once, by a union bound: with `_CEILING_SHARE` of alpha
the ceiling lies below the upper bound of its confidence sequence; with the rest, early agreement
lies above floor * that bound by `PromotionTest`, whose evidence falls as its floor rises, so that
evidence at too high a floor is evidence at the right one. The floor may therefore move with every
full-against-full pair.

References: see `rollout.stats.intervals` and `rollout.stats.promotion`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout.stats.intervals import confidence_sequence
from rollout.stats.promotion import PromotionTest

_CEILING_SHARE = 0.2
"""The ceiling's bound hardly widens for a smaller share, the test gains much from a larger one."""

_HIGHEST_FLOOR = 1.0 - 1e-12


@dataclass(frozen=True)
class CeilingTest:
    """Early-against-full and full-against-full pairs, and what they say together.

    Attributes:
        floor: Agreement relative to the ceiling that is to be certified, in (0, 1).
        early_count, early_mismatches: Early answers compared with a full one.
        full_count, full_mismatches: Full answers compared with another full one.

    >>> test = CeilingTest(0.95, early_count=4_000, early_mismatches=200)
    >>> test.certified(alpha=0.05)
    False
    >>> noisy = test.with_pairs(full=[True] * 970 + [False] * 30)
    >>> noisy.certified(alpha=0.05)
    True
    >>> CeilingTest.from_json(noisy.to_json()) == noisy
    True
    """

    floor: float
    early_count: int = 0
    early_mismatches: int = 0
    full_count: int = 0
    full_mismatches: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.floor < 1.0:
            raise ValueError(f"floor {self.floor} must lie strictly between 0 and 1")
        for kind, count, wrong in (
            ("early", self.early_count, self.early_mismatches),
            ("full", self.full_count, self.full_mismatches),
        ):
            if not 0 <= wrong <= count:
                raise ValueError(f"{wrong} mismatches among {count} {kind} pairs")

    @classmethod
    def start(cls, floor: float) -> CeilingTest:
        """A test that has seen nothing: the ceiling may be 1."""
        return cls(floor)

    def with_pairs(
        self,
        early: NDArray[np.bool_] | Sequence[bool] = (),
        full: NDArray[np.bool_] | Sequence[bool] = (),
    ) -> CeilingTest:
        """The test after these pairs, whether each matched; order and batches are immaterial."""
        return replace(
            self,
            early_count=self.early_count + len(early),
            early_mismatches=self.early_mismatches + len(early) - int(np.count_nonzero(early)),
            full_count=self.full_count + len(full),
            full_mismatches=self.full_mismatches + len(full) - int(np.count_nonzero(full)),
        )

    def ceiling(self, alpha: float) -> tuple[float, float]:
        """Bounds of full-against-full agreement, valid at every look at once with error <= alpha.

        (0, 1) before the first pair.
        """
        return confidence_sequence(self.full_count, self.full_mismatches, alpha)

    def relative(self, alpha: float) -> tuple[float, float, float] | None:
        """Early agreement over the ceiling: (estimate, lower, upper), at every look at once.

        Half of alpha goes to each of the two. The upper bound may lie above 1. None before the
        first pair of either kind or while no full pair matched.
        """
        if not self.early_count or self.full_mismatches >= self.full_count:
            return None
        early = confidence_sequence(self.early_count, self.early_mismatches, alpha / 2)
        ceiling = self.ceiling(alpha / 2)
        estimate = (1.0 - self.early_mismatches / self.early_count) / (
            1.0 - self.full_mismatches / self.full_count
        )
        upper = early[1] / ceiling[0] if ceiling[0] > 0.0 else math.inf
        return estimate, early[0] / ceiling[1], upper

    def promotion(self, alpha: float) -> tuple[PromotionTest, float]:
        """The test of early agreement at the floor that the ceiling leaves, and its share of alpha.

        For `expected_more` and for words; promote where its E reaches one over that share.
        """
        # The sequence is two-sided, and only its upper side can err here.
        highest = self.ceiling(_CEILING_SHARE * alpha)[1]
        floor = min(self.floor * highest, _HIGHEST_FLOOR)
        test = PromotionTest(floor, self.early_count, self.early_mismatches)
        return test, (1.0 - _CEILING_SHARE) * alpha

    def certified(self, alpha: float) -> bool:
        """Whether early agreement is certified above floor * ceiling at level alpha."""
        test, share = self.promotion(alpha)
        return test.e_value >= 1.0 / share

    def to_json(self) -> dict[str, Any]:
        return {
            "floor": self.floor,
            "early_count": self.early_count,
            "early_mismatches": self.early_mismatches,
            "full_count": self.full_count,
            "full_mismatches": self.full_mismatches,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> CeilingTest:
        return cls(**values)
