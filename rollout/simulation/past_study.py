"""A spec over the stored past of a domain, to be drawn: what was, what would have been."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from rollout.control.drift import Window, agreement_windows
from rollout.control.schema import DomainSpec
from rollout.simulation.rerun import Rerun, counts, rerun
from rollout.store.past import Past, PastRow, load_past, past_requests

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
    def stored_moves(self) -> list[PastRow]:
        """The rows of the ledger that changed the share."""
        return [row for row in self.past.rows if row.after is not None and row.after != row.before]

    def to_json(self) -> dict[str, Any]:
        return {
            "domain": self.domain,
            "start": self.past.start,
            "end": self.past.end,
            "stored": {"counts": counts(self.past.rows), "mean_share": self.stored_mean_share},
            "replayed": {"counts": counts(self.found.moves), "mean_share": self.found.mean_share},
        }

    @property
    def stored_mean_share(self) -> float:
        """Share of traffic over the time, as it was."""
        steps = share_steps(self.past.share, self.stored_moves, self.past)
        length = (self.past.end - self.past.start).total_seconds()
        if not length:
            return self.past.share
        held = zip(steps, steps[1:], strict=False)
        return sum(share * (end - at).total_seconds() for (at, share), (end, _) in held) / length


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


def share_steps(
    first: float, moves: list[PastRow] | tuple[PastRow, ...], past: Past
) -> list[tuple[datetime, float]]:
    """(from when, share of traffic), from the start to the end of the past."""
    steps = [(past.start, first)]
    steps += [(row.at, row.after) for row in moves if row.after is not None]
    return [*steps, (past.end, steps[-1][1])]
