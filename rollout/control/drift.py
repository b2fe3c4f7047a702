"""Early against full answers over time, for people: a table or a chart's band."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rollout.control.state import Comparison
from rollout.stats.intervals import clopper_pearson

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Window:
    """Agreement within one span of time; None where nothing was compared.

    Attributes:
        start: Inclusive.
        end: Exclusive.
        exited: Comparisons in which the policy answered early.
        lower: Lower end of the window's own (fixed-time) confidence interval.
    """

    start: datetime
    end: datetime
    comparisons: int
    mismatches: int
    exited: int
    agreement: float | None
    lower: float | None
    upper: float | None


def agreement_windows(
    comparisons: Iterable[Comparison], width: timedelta, alpha: float
) -> list[Window]:
    """Consecutive windows from the first comparison to the last, empty ones between included.

    Each interval is Clopper-Pearson at level alpha for that window alone: for reading, not for
    deciding. Windows start at whole multiples of `width` since 1970, so they stay put as data grow.

    Raises:
        ValueError: for a width that is not positive.
    """
    if width <= timedelta(0):
        raise ValueError(f"window width {width} must be positive")
    groups: dict[int, list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.at - _EPOCH) // width, []).append(comparison)
    if not groups:
        return []
    return [
        _window(_EPOCH + index * width, width, groups.get(index, []), alpha)
        for index in range(min(groups), max(groups) + 1)
    ]


def _window(
    start: datetime, width: timedelta, comparisons: list[Comparison], alpha: float
) -> Window:
    count = len(comparisons)
    mismatches = sum(not comparison.matched for comparison in comparisons)
    lower, upper = clopper_pearson(count - mismatches, count, alpha) if count else (None, None)
    return Window(
        start=start,
        end=start + width,
        comparisons=count,
        mismatches=mismatches,
        exited=sum(comparison.exited for comparison in comparisons),
        agreement=1.0 - mismatches / count if count else None,
        lower=lower,
        upper=upper,
    )
