"""The loop around `decide`: read what is new, decide, write it down, all in one transaction."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from rollout.control.decide import decide
from rollout.control.decision import Decision, Evidence
from rollout.control.spec import DomainSpec
from rollout.control.state import DomainState
from rollout.store import thresholds
from rollout.store.catalog import kill_switch
from rollout.store.domains import load_domain
from rollout.store.folding import News, folded, read_news
from rollout.store.ledger import commit_decision, load_state
from rollout.store.models import Outcome
from rollout.store.outcomes import mark_monitored
from rollout.store.session import Store

log = logging.getLogger(__name__)

CONTROLLER = "controller"


def tick(store: Store, domain: str, now: datetime) -> Decision | None:
    """Count a domain's new outcomes and decide once. None where the domain has no state yet.

    Where they cannot be counted, they stay as they are, and the verdict is *error*.

    Raises:
        LostRace: another controller or a person decided first; nothing was written.
        StoreUnreachable: no database.
    """
    with store.write() as session:
        found = load_state(session, domain)
        if found is None:
            return None
        state, lock_version = found
        applied = load_domain(session, domain)
        news = read_news(session, applied.spec, state, domain)
        state, comparisons, fault = _counted(applied.spec, state, news, domain, now)
        tighter = thresholds.tighter(session, applied.spec, state, news)
        looser = thresholds.looser(session, applied.spec, state, news, now)
        switch = kill_switch(session)
        evidence = Evidence(
            requests=len(news.rows),
            comparisons=comparisons,
            not_comparable=sum(row.not_comparable is not None for row in news.rows),
            oldest_unseen=oldest_unseen(session, domain, state),
            killed=switch is not None and switch.on,
            tighter=None if tighter is None else tighter.evidence,
            looser=None if looser is None else looser.evidence,
            signals=() if state.signals is None else state.signals.seen,
            fault=fault,
        )
        decision = decide(applied.spec, state, evidence, now)
        moved = {"tighten": tighter, "loosen": looser}.get(decision.action)
        if moved is not None:
            moved.save(session, CONTROLLER, now)
        decision = replace(decision, facts=decision.facts | {"evidence": evidence.to_json()})
        if fault is None:
            _mark(session, news)
        commit_decision(
            session,
            domain=domain,
            lock_version=lock_version,
            decision=decision,
            state_before=state,
            actor=CONTROLLER,
            spec_hash=applied.spec_hash,
            now=now,
        )
        return decision


def _counted(
    spec: DomainSpec, state: DomainState, news: News, domain: str, now: datetime
) -> tuple[DomainState, int, str | None]:
    """The state with the news, how many comparisons there were, and what went wrong, in words."""
    if news.fault is not None:
        return state, 0, news.fault
    try:
        after, comparisons = folded(spec, state, news, now)
    except SQLAlchemyError:
        raise
    except Exception as error:
        # Whatever it is: the monitor is broken, which is neither a good sign nor a bad one.
        log.exception("domain %s: the monitor cannot take %d outcomes", domain, len(news.rows))
        return state, 0, f"{type(error).__name__}: {error}"
    if after.monitor.fault is not None:
        return state, 0, after.monitor.fault
    return after, comparisons, None


def oldest_unseen(session: Session, domain: str, state: DomainState) -> datetime | None:
    last = state.monitor.last_comparison_at or state.stage_since
    return session.scalar(
        select(func.min(Outcome.created_at)).where(
            Outcome.domain == domain, Outcome.created_at > last
        )
    )


def _mark(session: Session, news: News) -> None:
    mark_monitored(session, [row.id for row in news.rows])
    if news.replays:
        session.execute(
            update(Outcome)
            .where(Outcome.id.in_([replay.id for replay in news.replays]))
            .values(replay_monitored=True)
            .execution_options(synchronize_session=False)
        )
