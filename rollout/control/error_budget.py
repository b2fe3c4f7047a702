"""The chance of a wrong promotion, shared over all promotions that a policy ever tries for.

Every stage that is entered starts a test, and a test may promote wrongly with chance at most its
level, whether or not it comes to that. So each test takes its level from what is left when it
starts: left / (promotions ahead + 1). The levels of all tests of a policy, repeated climbs
included, add up to less than alpha, and by the union bound so does the chance that any of its
promotions is wrong. A straight climb uses the same share at every stage and keeps one in reserve.

Reference: Foster and Stine (2008), Alpha-investing, sec. 2 (spending alpha on a stream of tests).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ErrorBudget:
    """What a policy's promotions may still get wrong.

    Attributes:
        alpha: For all of them together.
        level: Of the test that runs now; 0 at the last stage, where none does.
        left: For tests that have not started yet.

    >>> first = ErrorBudget.start(0.06, promotions_ahead=5)
    >>> round(first.level, 4), round(first.next(promotions_ahead=4).level, 4)
    (0.01, 0.01)
    >>> ErrorBudget.from_json(first.to_json()) == first
    True
    """

    alpha: float
    level: float
    left: float

    @classmethod
    def start(cls, alpha: float, promotions_ahead: int) -> ErrorBudget:
        """The budget of a new policy, its first test included."""
        return cls(alpha, 0.0, alpha).next(promotions_ahead)

    @classmethod
    def climbed(cls, alpha: float, stages: int, stage: int) -> ErrorBudget:
        """As it stands after a straight climb to `stage` of `stages`."""
        budget = cls.start(alpha, stages - 1)
        for entered in range(1, stage + 1):
            budget = budget.next(stages - 1 - entered)
        return budget

    def next(self, promotions_ahead: int) -> ErrorBudget:
        """After the start of another test, with this many promotions to the last stage."""
        level = self.left / (promotions_ahead + 1) if promotions_ahead else 0.0
        return ErrorBudget(self.alpha, level, self.left - level)

    @property
    def spent(self) -> float:
        """The levels of all tests so far, the running one included."""
        return self.alpha - self.left

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ErrorBudget:
        return cls(**values)
