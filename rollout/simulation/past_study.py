"""A spec over the stored past of a domain, to be drawn: what was, what would have been."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy.orm import Session

from rollout.control.drift import Window, agreement_windows
from rollout.control.schema import DomainSpec
from rollout.simulation.rerun import Rerun, counts, rerun
from rollout.store.past import Past, PastRow, load_past, past_requests

Step = tuple[datetime, float]
"""From when, which share of traffic; the last one is the end."""

WINDOWS = 60
"""At most so many, over the whole time."""


@dataclass(frozen=True)
class PastStudy:
    """Attributes:
    found: What the spec would have decided.
    windows: Agreement as measured then; for reading, not for deciding.
    """

    domain: str
    spec: DomainSpec
    past: Past
    found: Rerun
    windows: tuple[Window, ...]

    @property
    def stored_steps(self) -> list[Step]:
        """The share as it was."""
        return _steps(self.past, self.past.share, self.past.rows)

    @property
    def steps(self) -> list[Step]:
        """The share under the spec: never a larger one at the start."""
        first = max(share for share in self.spec.stages if share <= self.past.share)
        return _steps(self.past, first, self.found.moves)

    @property
    def stored_mean_share(self) -> float:
        """Over the time."""
        return _mean(self.stored_steps)

    @property
    def mean_share(self) -> float:
        """Over the time, under the spec."""
        return _mean(self.steps)

    def to_json(self) -> dict[str, Any]:
        return {
            "domain": self.domain,
            "start": self.past.start,
            "end": self.past.end,
            "stored": {"counts": counts(self.past.rows), "mean_share": self.stored_mean_share},
            "replayed": {"counts": counts(self.found.moves), "mean_share": self.mean_share},
        }


def past_study(
    session: Session, domain: str, spec: DomainSpec, since: datetime | None, now: datetime
) -> PastStudy:
    """Raises RolloutError where nothing was decided since."""
    past = load_past(session, domain, since, now)
    found = rerun(
        spec,
        past,
        past_requests(session, domain, spec, past.start, past.end),
        past.between_ticks,
    )
    comparisons = [
        one.comparison
        for one in past_requests(session, domain, spec, past.start, past.end)
        if one.comparison is not None
    ]
    width = max((past.end - past.start) / WINDOWS, timedelta(minutes=1))
    windows = agreement_windows(comparisons, width, spec.agreement.alpha)
    return PastStudy(domain, spec, past, found, tuple(windows))


def _steps(past: Past, first: float, rows: Iterable[PastRow]) -> list[Step]:
    steps = [(past.start, first)]
    steps += [(row.at, row.after) for row in rows if row.after is not None and row.at < past.end]
    return [*steps, (past.end, steps[-1][1])]


def _mean(steps: list[Step]) -> float:
    length = (steps[-1][0] - steps[0][0]).total_seconds()
    if not length:
        return steps[0][1]
    return sum(
        share * (end - at).total_seconds() / length for (at, share), (end, _) in pairwise(steps)
    )
