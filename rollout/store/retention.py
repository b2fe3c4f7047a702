"""Retention: customer text leaves the store when the domain's time is over; the counts stay."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, update
from sqlalchemy.orm import Session

from rollout.store.models import Outcome


def purge(session: Session, domain: str, before: datetime) -> int:
    """Forget the texts of a domain's outcomes answered before `before`. Returns how many."""
    result = session.execute(
        update(Outcome)
        .where(
            Outcome.domain == domain,
            Outcome.created_at < before,
            Outcome.text.is_not(None),
        )
        .values(text=None)
        .execution_options(synchronize_session=False)
    )
    return cast(CursorResult[Any], result).rowcount
