"""Choosing among nested thresholds while looking after every sample.

One test martingale per threshold against "risk > limit", walked from the safest on (fixed
sequence): a threshold is certified once its own martingale has ever reached 1 / alpha and every
safer one is certified. To certify any threshold whose risk is over the limit, the safest such must
be certified, which happens with chance at most alpha at any time (Ville's inequality): no
correction for the number of thresholds or of looks. So the boldest certified one may be served,
whichever is live, and the evidence must *not* start again when the live threshold changes: all
thresholds are judged by the same traces.

What does call for a new ladder is what changes the risks: new heads, another model, other
thresholds, an alarm. Each new one takes a share of alpha (`alpha_share`), so that the chance that
any ladder of a domain ever certifies wrongly is at most alpha. A certificate speaks of the risk
while its evidence came in; afterwards the change detectors watch.

References:
    Angelopoulos, Bates, Candès, Jordan, Lei (2021), Learn then Test: calibrating predictive
    algorithms to achieve risk control, sec. 3.2 (fixed-sequence testing).
    Ramdas, Grünwald, Vovk, Shafer (2023), Game-theoretic statistics and safe anytime-valid
    inference, sec. 2 (test martingales).
    Foster and Stine (2008), Alpha-investing, sec. 2 (spending alpha on a stream of tests).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def alpha_share(alpha: float, number: int) -> float:
    """The share of alpha for the `number`-th ladder of a domain, 1 and up: alpha * 6 / (pi k)^2.

    All shares together are alpha, however many ladders follow.

    >>> round(alpha_share(0.05, 1), 4), round(alpha_share(0.05, 2), 4)
    (0.0304, 0.0076)
    """
    if number < 1:
        raise ValueError(f"ladder number {number} must be 1 or more")
    return alpha * 6.0 / (math.pi * number) ** 2


@dataclass(frozen=True)
class ThresholdLadder:
    """Evidence for each of some nested thresholds, safest first.

    Attributes:
        thresholds: Falling confidence thresholds.
        limit: The risk (mean loss) to be certified not to be exceeded, in (0, 1).
        alpha: Chance that a certificate is ever wrong.
        count: Rows seen.
        log_capitals: [thresholds, bets], see `rollout.stats.betting`.
        passed: Per threshold, whether its martingale ever reached 1 / alpha.

    >>> ladder = ThresholdLadder.start([0.9, 0.8], limit=0.05, alpha=0.05)
    >>> ladder = ladder.update(np.tile([[False, True]], (81, 1)))
    >>> ladder.certified, ladder.threshold
    (0, 0.9)
    >>> ThresholdLadder.from_json(ladder.to_json()) == ladder
    True
    """

    thresholds: tuple[float, ...]
    limit: float
    alpha: float
    count: int
    log_capitals: tuple[tuple[float, ...], ...]
    passed: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.thresholds or list(self.thresholds) != sorted(
            set(self.thresholds), reverse=True
        ):
            raise ValueError(f"thresholds {list(self.thresholds)} must fall, the safest first")
        if not (self.thresholds[0] <= 1.0 and self.thresholds[-1] >= 0.0):
            raise ValueError(f"thresholds {list(self.thresholds)} must lie in [0, 1]")
        for name, rate in (("limit", self.limit), ("alpha", self.alpha)):
            if not 0.0 < rate < 1.0:
                raise ValueError(f"{name} {rate} must lie strictly between 0 and 1")
        if len(self.log_capitals) != len(self.thresholds) or len(self.passed) != len(
            self.thresholds
        ):
            raise ValueError("a ladder has one row of capitals and one flag per threshold")

    @classmethod
    def start(cls, thresholds: Sequence[float], limit: float, alpha: float) -> ThresholdLadder:
        """A ladder that has seen nothing.

        Args:
            thresholds: Falling; proposed on other rows than those that will certify them.
            limit: The tolerated risk.
            alpha: This ladder's share, see `alpha_share`.

        Raises:
            ValueError: for thresholds that do not fall within [0, 1], or wrong rates.
        """
        size = len(thresholds)
        return cls(
            tuple(float(threshold) for threshold in thresholds),
            limit,
            alpha,
            0,
            ((0.0,) * len(BETS),) * size,
            (False,) * size,
        )

    def update(
        self,
        losses: ArrayLike,
        probabilities: ArrayLike | None = None,
        lowest: ArrayLike = 1.0,
    ) -> ThresholdLadder:
        """The ladder after these rows, in order; the split into batches is immaterial.

        Args:
            losses: [n, thresholds], in [0, 1]: what each threshold's answer would have cost; a bool
                says that it would have differed from full depth. See `threshold_losses`.
            probabilities: [n], with which each row was sampled, where that depends on the request;
                None where it does not.
            lowest: The lowest such probability that any request had then, one number or [n]; see
                `WeightedPromotionTest`.

        Raises:
            ValueError: for losses or probabilities of a wrong shape or outside their range.
        """
        values = checked_losses(losses, len(self.thresholds))
        weights = None
        if probabilities is not None:
            weights = checked_weights(probabilities, lowest, len(values))[:, None]
        path = log_capital(
            self.log_capitals, values, self.limit, weights
        )  # [n + 1, thresholds, bets]
        reached = (log_mean(path) >= math.log(1.0 / self.alpha)).any(axis=0)  # [thresholds]
        return replace(
            self,
            count=self.count + len(values),
            log_capitals=tuple(map(tuple, path[-1].tolist())),
            passed=tuple((reached | np.array(self.passed)).tolist()),
        )

    @property
    def certified(self) -> int | None:
        """Index of the boldest certified threshold; None where not even the safest is."""
        first_failure = (*self.passed, False).index(False)
        return first_failure - 1 if first_failure else None

    @property
    def threshold(self) -> float | None:
        """The boldest certified threshold."""
        return None if self.certified is None else self.thresholds[self.certified]

    @property
    def e_values(self) -> tuple[float, ...]:
        """Present evidence per threshold against "risk > limit"."""
        logs = log_mean(np.array(self.log_capitals))
        return tuple(to_e_value(float(log)) for log in logs)

    def expected_more(self, index: int) -> int | None:
        """About how many more rows until the threshold at `index` passes, should all go on as is.

        0 where it has passed; None where it has gained nothing so far.
        """
        if self.passed[index]:
            return 0
        return more_needed(self.log_capitals[index], self.count, self.alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "thresholds": list(self.thresholds),
            "limit": self.limit,
            "alpha": self.alpha,
            "count": self.count,
            "log_capitals": [list(row) for row in self.log_capitals],
            "passed": list(self.passed),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ThresholdLadder:
        return cls(
            tuple(values["thresholds"]),
            values["limit"],
            values["alpha"],
            values["count"],
            tuple(map(tuple, values["log_capitals"])),
            tuple(values["passed"]),
        )
