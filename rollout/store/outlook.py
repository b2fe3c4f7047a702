"""Why a domain is not further yet, from what is stored."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from rollout.control.decision import Evidence
from rollout.control.outlook import Outlook, outlook
from rollout.control.state import DomainState
from rollout.store.catalog import kill_switch
from rollout.store.domains import load_domain
from rollout.store.ledger import load_state
from rollout.store.models import Outcome
from rollout.store.tick import oldest_unseen
from rollout.values import RolloutError

LATELY = timedelta(hours=6)
"""The span over which the present rate of comparisons is measured."""


def domain_outlook(session: Session, domain: str, now: datetime) -> Outlook:
    """What stands between a domain and its next stage; nothing is changed.

    Raises:
        RolloutError: the domain was never applied.
    """
    applied = load_domain(session, domain)
    found = load_state(session, domain)
    if found is None:
        raise RolloutError(f"domain {domain!r} has no state: run `rollout apply`")
    state = found[0]
    switch = kill_switch(session)
    evidence = Evidence(
        oldest_unseen=oldest_unseen(session, domain, state),
        killed=switch is not None and switch.on,
        signals=() if state.signals is None else state.signals.seen,
    )
    per_hour = comparisons_per_hour(session, domain, state, now)
    return outlook(applied.spec, state, evidence, now, per_hour)


def comparisons_per_hour(
    session: Session, domain: str, state: DomainState, now: datetime
) -> float | None:
    """Comparisons of the live policy an hour, lately; None where there were none.

    Since stage entry, where that is less than `LATELY` ago: the stage settles how much is compared.
    """
    since = max(now - LATELY, state.stage_since)
    if now - since < timedelta(minutes=5):
        since = now - LATELY
    count, first = session.execute(
        select(func.count(), func.min(Outcome.created_at)).where(
            Outcome.domain == domain,
            Outcome.created_at > since,
            Outcome.created_at <= now,
            Outcome.policy_version == state.policy_version,
            Outcome.agreement.is_not(None),
            or_(Outcome.arm == "control", Outcome.shadow),
        )
    ).one()
    if not count:
        return None
    hours = (now - min(first, now - timedelta(minutes=1))) / timedelta(hours=1)
    return float(count / hours)
