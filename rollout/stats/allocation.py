"""Sample-ratio mismatch: do the arms' counts contradict the stage weight? Asked at every look.

A mixture of likelihood ratios against "each request is early with chance `weight`", for
alternatives in which the odds of the early arm are multiplied by r. Rows that get lost in one arm
multiply its odds by the share that arrives, whatever the weight, so evidence adds up over stages.
By Ville's inequality the mixture ever reaches 1 / alpha with chance at most alpha.

References:
    Fabijan, Gupchup, Gupta, Omhover, Qin, Vermeer, Dmitriev (2019), Diagnosing sample ratio
    mismatch in online controlled experiments, sec. 3 (causes; what is lost after assignment).
    Lindon and Malek (2022), Anytime-valid inference for multinomial count data, sec. 3 (sequential
    test of stated assignment probabilities as a Bayes factor; here a grid in place of the Dirichlet
    prior, since the weight changes from stage to stage).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rollout.stats.betting import log_mean, to_e_value

ODDS_RATIOS = (0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 1 / 0.98, 1 / 0.95, 1 / 0.9, 1 / 0.8, 2.0, 10.0)
"""The r: from one in fifty rows of an arm lost to nine in ten."""


@dataclass(frozen=True)
class SampleRatioTest:
    """Evidence against "the early arm gets the stage weight".

    Attributes:
        early: Requests of the early arm.
        control: Requests of the control arm.
        expected_early: Early requests that the weights called for.
        impossible: Requests of an arm whose weight was 0.
        log_ratios: Log likelihood ratio per alternative.

    >>> test = SampleRatioTest.start().update(early=480, control=9_520, weight=0.05)
    >>> test.mismatch(alpha=0.001)
    False
    >>> lost = test.update(early=4_400, control=5_000, weight=0.5)
    >>> lost.mismatch(alpha=0.001), round(lost.expected_early)
    (True, 5200)
    >>> SampleRatioTest.from_json(lost.to_json()) == lost
    True
    """

    early: int = 0
    control: int = 0
    expected_early: float = 0.0
    impossible: int = 0
    log_ratios: tuple[float, ...] = (0.0,) * len(ODDS_RATIOS)

    @classmethod
    def start(cls) -> SampleRatioTest:
        """A test that has seen nothing."""
        return cls()

    def update(self, early: int, control: int, weight: float) -> SampleRatioTest:
        """The test after this many requests assigned with this weight; their order is immaterial.

        Args:
            weight: The early arm's share that was in force *when they were assigned*, in [0, 1].

        Raises:
            ValueError: for negative counts or a weight outside [0, 1].
        """
        if early < 0 or control < 0:
            raise ValueError(f"{early} early and {control} control requests cannot be")
        if not 0.0 <= weight <= 1.0:
            raise ValueError(f"weight {weight} must lie in [0, 1]")
        impossible, log_ratios = self.impossible, self.log_ratios
        if weight in (0.0, 1.0):
            impossible += early if weight == 0.0 else control
        else:
            ratios = np.array(ODDS_RATIOS)
            scale = np.log1p(weight * (ratios - 1.0))
            log_ratios = tuple(
                (np.array(log_ratios) + early * (np.log(ratios) - scale) - control * scale).tolist()
            )
        return replace(
            self,
            early=self.early + early,
            control=self.control + control,
            expected_early=self.expected_early + weight * (early + control),
            impossible=impossible,
            log_ratios=log_ratios,
        )

    @property
    def e_value(self) -> float:
        """Evidence so far, cut off at e^700; one request in an arm of weight 0 suffices."""
        log_e = math.inf if self.impossible else float(log_mean(np.array(self.log_ratios)))
        return to_e_value(log_e)

    def mismatch(self, alpha: float) -> bool:
        """Whether the counts contradict the weights, at level alpha over all looks together."""
        return self.e_value >= 1.0 / alpha

    def to_json(self) -> dict[str, Any]:
        return {
            "early": self.early,
            "control": self.control,
            "expected_early": self.expected_early,
            "impossible": self.impossible,
            "log_ratios": list(self.log_ratios),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SampleRatioTest:
        return cls(**{**values, "log_ratios": tuple(values["log_ratios"])})


def sample_ratio_mismatch(segments: Iterable[tuple[int, int, float]], alpha: float) -> bool:
    """Whether the counts of all stages together contradict their weights.

    Args:
        segments: (early, control, weight) per stretch of constant weight.
        alpha: Chance of a false alarm over all looks together.

    >>> sample_ratio_mismatch([(51, 949, 0.05), (240, 260, 0.5)], alpha=0.001)
    False
    >>> sample_ratio_mismatch([(51, 949, 0.05), (1_200, 1_800, 0.5)], alpha=0.001)
    True
    """
    test = SampleRatioTest.start()
    for early, control, weight in segments:
        test = test.update(early, control, weight)
    return test.mismatch(alpha)
