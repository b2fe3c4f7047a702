"""What the evidence for the next promotion amounts to, in whichever way the spec has it read."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState
from rollout.stats.promotion import PromotionTest, expected_more


@dataclass(frozen=True)
class Certificate:
    """How far the evidence that agreement is above the floor has come.

    Attributes:
        agreement: What is held against target and floor: plain, 1 - mean severity, or relative to
            the noise ceiling; None before it is known.
        e_value: The evidence.
        needed: From which it is enough; None at the last stage.
        more: About how many more comparisons that takes as things go; None where it is out of
            reach, not known, or not asked.
    """

    agreement: float | None
    e_value: float
    needed: float | None
    more: int | None

    @property
    def enough(self) -> bool:
        return self.needed is None or self.e_value >= self.needed


def certificate(spec: DomainSpec, state: DomainState) -> Certificate:
    """The evidence at the level of the present stage's test."""
    monitor, level = state.monitor, state.error_budget(spec).level
    if monitor.weighted is not None:
        more = monitor.weighted.expected_more(level) if level and not monitor.fault else None
        return Certificate(monitor.agreement, monitor.e_value, _needed(level), more)
    if monitor.relative is None:
        return _plain(monitor.promotion, monitor.agreement, level)
    estimate = monitor.ceiling.relative(spec.agreement.alpha)
    agreement = None if estimate is None else min(estimate[0], 1.0)
    if not level:
        return Certificate(agreement, monitor.e_value, None, None)
    test, share = monitor.ceiling.promotion(level)
    return _plain(test, agreement, share)


def _plain(test: PromotionTest, agreement: float | None, level: float) -> Certificate:
    seen = test.agreement
    more = expected_more(test, level, seen) if level and seen is not None else None
    return Certificate(agreement, test.e_value, _needed(level), more)


def _needed(level: float) -> float | None:
    return 1.0 / level if level else None
