"""Anytime-valid evidence for promotion from observations sampled with unequal probabilities.

Where a request's chance of being compared depends on the request (guarded labels more often, say),
compared requests are not a fair sample. Each is weighed by w = lowest / probability: for every
request, sampled or not, the expected factor of the capital is then
1 + lambda * lowest * (limit - E[loss]) / (1 - limit), at most 1 while the mean loss *of all
requests* is at least the limit. Requests that are not sampled change nothing.

`lowest` may change with time, as long as it is settled before the request comes: a shadow rate that
moves for all requests alike moves `lowest` and `probability` together and costs nothing. What costs
evidence is the ratio between requests at one time: keep it within about 5:1.

References: see `rollout.stats.betting`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rollout.stats.betting import (
    BETS,
    checked_losses,
    checked_weights,
    log_capital,
    log_mean,
    more_needed,
    to_e_value,
)


@dataclass(frozen=True)
class WeightedPromotionTest:
    """Evidence against "mean loss of all requests >= 1 - floor".

    With losses of 0 (match) and 1 (mismatch) and equal probabilities it is `PromotionTest`.
    With a severity in [0, 1] per kind of mismatch (a cost matrix divided by its largest entry), the
    floor is one of 1 - mean severity.

    Attributes:
        floor: In (0, 1).
        count: Observations seen.
        log_capitals: Logarithm of the capital, per bet.

    >>> test = WeightedPromotionTest.start(0.95).update([0.0] * 81)
    >>> round(test.e_value, 1)
    20.1
    >>> weighted = WeightedPromotionTest.start(0.95).update([0.0] * 81, [0.5] * 81, lowest=0.1)
    >>> round(weighted.e_value, 1)
    1.7
    >>> WeightedPromotionTest.from_json(weighted.to_json()) == weighted
    True
    """

    floor: float
    count: int = 0
    log_capitals: tuple[float, ...] = (0.0,) * len(BETS)

    def __post_init__(self) -> None:
        if not 0.0 < self.floor < 1.0:
            raise ValueError(f"floor {self.floor} must lie strictly between 0 and 1")

    @classmethod
    def start(cls, floor: float) -> WeightedPromotionTest:
        """A test without evidence yet: E = 1. Raises ValueError for a floor outside (0, 1)."""
        return cls(floor)

    def update(
        self,
        losses: ArrayLike,
        probabilities: ArrayLike | None = None,
        lowest: ArrayLike = 1.0,
    ) -> WeightedPromotionTest:
        """The test after these observations, in order; the split into batches is immaterial.

        Args:
            losses: [n], in [0, 1]; a bool says that the answers differed.
            probabilities: [n], with which each was sampled *given what the request is*; chance that
                ignores the request (its arm, say) is left out. None: equal for all.
            lowest: The lowest such probability that any request had then, one number or [n].

        Raises:
            ValueError: for losses outside [0, 1], probabilities outside (0, 1] or below `lowest`,
                or shapes that do not fit.
        """
        values = checked_losses(losses)
        weights = None
        if probabilities is not None:
            weights = checked_weights(probabilities, lowest, len(values))
        path = log_capital(self.log_capitals, values, 1.0 - self.floor, weights)
        return replace(
            self,
            count=self.count + len(values),
            log_capitals=tuple(path[-1].tolist()),
        )

    @property
    def log_e_value(self) -> float:
        """Natural logarithm of E."""
        return float(log_mean(np.array(self.log_capitals)))

    @property
    def e_value(self) -> float:
        """E, cut off at e^700 so that it stays a finite float."""
        return to_e_value(self.log_e_value)

    def expected_more(self, alpha: float) -> int | None:
        """About how many more observations until E >= 1 / alpha, should all go on as is.

        0 where E is there already; None where nothing was gained so far.
        """
        return more_needed(self.log_capitals, self.count, alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "floor": self.floor,
            "count": self.count,
            "log_capitals": list(self.log_capitals),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> WeightedPromotionTest:
        return cls(values["floor"], values["count"], tuple(values["log_capitals"]))
