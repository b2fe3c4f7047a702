"""Sequential detection of a rise in the error rate, with a stated mean time to false alarm.

A Shiryaev-Roberts e-detector, mixed over rates after the change. For tolerated error p and
alternatives q_k: R_k <- (1 + R_k) * (q_k / p on an error, (1 - q_k) / (1 - p) else); alarm when
mean_k R_k >= A. For every true error rate <= p the mean time to a false alarm is at least A.

References:
    Shiryaev (1963), On optimum methods in quickest detection problems; Roberts (1966), A comparison
    of some control chart procedures (the recursion).
    Shin, Ramdas, Rinaldo (2024), E-detectors: a nonparametric framework for sequential change
    detection, sec. 2.2 (SR e-detector and its bound on the mean time to false alarm), sec. 3
    (mixtures).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MULTIPLES = (1.5, 2.0, 3.0, 4.5, 7.0, 10.0)
"""Rates after the change that are looked for, as multiples of the tolerated error."""

_RESCALE_ABOVE = 1e200
_RESCALE_BY = 1e-100


def rates_after_change(tolerated_error: float) -> tuple[float, ...]:
    """The alternatives q_k, each capped half way between the tolerated error and 1.

    >>> [round(rate, 3) for rate in rates_after_change(0.05)]
    [0.075, 0.1, 0.15, 0.225, 0.35, 0.5]
    """
    highest = (1.0 + tolerated_error) / 2.0
    return tuple(min(tolerated_error * multiple, highest) for multiple in MULTIPLES)


@dataclass(frozen=True)
class ChangeDetector:
    """Watches a stream of errors for a rate above the tolerated one.

    Attributes:
        tolerated_error: The error rate up to which the false alarm promise holds, in (0, 0.5].
        mean_time_to_false_alarm: The alarm threshold A, in observations, above 1.
        levels: R_k, one per alternative.
        alarmed: Whether the threshold was ever reached; never falls back.

    >>> detector = ChangeDetector.start(0.02, 20_000)
    >>> detector.update([False] * 1000).alarmed
    False
    >>> broken = detector.update([False] * 1000 + [True, False] * 10)
    >>> broken.alarmed, round(broken.likely_error, 2)
    (True, 0.2)
    >>> ChangeDetector.from_json(broken.to_json()) == broken
    True
    """

    tolerated_error: float
    mean_time_to_false_alarm: float
    levels: tuple[float, ...] = (0.0,) * len(MULTIPLES)
    alarmed: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.tolerated_error <= 0.5:
            raise ValueError(f"tolerated error {self.tolerated_error} must lie in (0, 0.5]")
        if not 1.0 < self.mean_time_to_false_alarm < math.inf:
            raise ValueError(
                f"mean time to false alarm {self.mean_time_to_false_alarm} must be a number above 1"
            )

    @classmethod
    def start(cls, tolerated_error: float, mean_time_to_false_alarm: float) -> ChangeDetector:
        """A detector that has seen nothing. Raises ValueError for rates outside (0, 0.5]."""
        return cls(tolerated_error, mean_time_to_false_alarm)

    def update(
        self, disagreed: NDArray[np.bool_] | Iterable[bool] | Iterable[float]
    ) -> ChangeDetector:
        """The detector after these observations, in order; the split into batches is immaterial.

        A loss between 0 and 1 takes the likelihood ratio between theirs: its mean is at most 1
        wherever the mean loss is at most the tolerated error, so the promise holds for losses, too.

        Raises:
            ValueError: for a loss outside [0, 1].
        """
        rates = rates_after_change(self.tolerated_error)
        on_error = [rate / self.tolerated_error for rate in rates]
        else_ = [(1.0 - rate) / (1.0 - self.tolerated_error) for rate in rates]
        alarm_sum = self.mean_time_to_false_alarm * len(rates)
        alarmed = self.alarmed
        # Six plain floats written out, in order: the same bits for every batch split, which
        # cumulative products would not give, in a small part of the time of a loop over them.
        e0, e1, e2, e3, e4, e5 = on_error
        n0, n1, n2, n3, n4, n5 = else_
        r0, r1, r2, r3, r4, r5 = self.levels
        for loss in disagreed.tolist() if isinstance(disagreed, np.ndarray) else disagreed:
            if loss == 1.0:
                r0, r1, r2 = (1.0 + r0) * e0, (1.0 + r1) * e1, (1.0 + r2) * e2
                r3, r4, r5 = (1.0 + r3) * e3, (1.0 + r4) * e4, (1.0 + r5) * e5
            elif loss == 0.0:
                r0, r1, r2 = (1.0 + r0) * n0, (1.0 + r1) * n1, (1.0 + r2) * n2
                r3, r4, r5 = (1.0 + r3) * n3, (1.0 + r4) * n4, (1.0 + r5) * n5
            elif 0.0 < loss < 1.0:
                ratios = (n + loss * (e - n) for e, n in zip(on_error, else_, strict=True))
                levels = (r0, r1, r2, r3, r4, r5)
                r0, r1, r2, r3, r4, r5 = (
                    (1.0 + level) * ratio for level, ratio in zip(levels, ratios, strict=True)
                )
            else:
                raise ValueError(f"a loss of {loss} must lie in [0, 1]")
            total = r0 + r1 + r2 + r3 + r4 + r5
            if total >= alarm_sum:
                alarmed = True
                if total > _RESCALE_ABOVE:
                    # So far past the alarm only the ratios of the levels still mean something.
                    r0, r1, r2, r3, r4, r5 = (
                        level * _RESCALE_BY for level in (r0, r1, r2, r3, r4, r5)
                    )
        return replace(self, levels=(r0, r1, r2, r3, r4, r5), alarmed=alarmed)

    @property
    def statistic(self) -> float:
        """mean_k R_k, to be compared with the mean time to false alarm."""
        return sum(self.levels) / len(self.levels)

    @property
    def likely_error(self) -> float:
        """The alternative with the largest R_k: which of them the rate after a change is nearest.

        Means something after an alarm only.
        """
        rates = rates_after_change(self.tolerated_error)
        return rates[max(range(len(rates)), key=lambda index: self.levels[index])]

    def to_json(self) -> dict[str, Any]:
        return {
            "tolerated_error": self.tolerated_error,
            "mean_time_to_false_alarm": self.mean_time_to_false_alarm,
            "levels": list(self.levels),
            "alarmed": self.alarmed,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ChangeDetector:
        return cls(
            values["tolerated_error"],
            values["mean_time_to_false_alarm"],
            tuple(values["levels"]),
            values["alarmed"],
        )
