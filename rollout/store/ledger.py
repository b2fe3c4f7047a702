"""The ledger: states, decisions and incidents change together, in one transaction, or not at all.

Every function works in the session's transaction; nothing here commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from rollout.control.decision import Decision
from rollout.control.state import DomainState
from rollout.control.verdicts import PASSING_ERRORS
from rollout.store.models import DecisionRow, Domain, Incident, RolloutState
from rollout.values import RolloutError

HOLD = "hold"
EVENT = "event"
"""The rule of ledger rows that record what happened and decide nothing."""

CLOSES_INCIDENTS = frozenset({"promote", "resume"})
"""Actions that say a domain is well again: by evidence, or by a person."""


class LostRace(RolloutError):
    """Another controller or operator changed the domain first; nothing of this was written."""


def load_state(
    session: Session, domain: str, *, locked: bool = False
) -> tuple[DomainState, int] | None:
    """A domain's state and lock version (for `commit_decision`); None before `replace_state`.

    Args:
        locked: Let nobody else change it until the transaction ends. For people's commands, which
            must not fail because a controller was faster.

    Raises:
        RolloutError: what is stored is no state.
    """
    row = session.get(RolloutState, domain, with_for_update=True if locked else None)
    if row is None:
        return None
    try:
        return DomainState.from_json(row.state), row.version
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RolloutError(
            f"domain {domain!r}: its stored state is damaged ({type(error).__name__}: {error}), "
            "so it is at full depth. Restore the row of rollout_states, or run "
            "`rollout calibrate` after deleting it"
        ) from error


def replace_state(session: Session, domain: str, state: DomainState, now: datetime) -> int:
    """Store a domain's state whatever stood there: its first, or what a new spec makes of it.

    Returns the new lock version; a decision that was being made from the old state loses its race.

    Raises:
        sqlalchemy.exc.IntegrityError: the domain was never applied.
    """
    row = session.get(RolloutState, domain, with_for_update=True)
    if row is None:
        row = RolloutState(domain=domain, version=0)
        session.add(row)
    row.version += 1
    row.stage = state.stage
    row.mode = state.mode
    row.policy_version = state.policy_version
    row.state = state.to_json()
    row.updated_at = now
    session.flush()
    return row.version


def commit_decision(
    session: Session,
    *,
    domain: str,
    lock_version: int,
    decision: Decision,
    state_before: DomainState,
    actor: str,
    spec_hash: str,
    now: datetime,
) -> int:
    """Write a decision, the state it leads to and what it means for incidents.

    The state is compared and set on `lock_version`: of two controllers that decided from the same
    state one gets through. A hold like the domain's last row (same rule, actor, spec and policy) is
    folded into it: `repeats` and `last_at` grow and the row carries the latest reason, evidence and
    states, so that it replays as the last of its holds. An incident opens where the decision names
    one that is not open already. Open ones close when the domain is promoted or resumed, those of
    an error that moved nothing as soon as a verdict is possible again.

    Returns the new lock version.

    Raises:
        LostRace: the domain's state is no longer at `lock_version`. Let it leave the transaction.
    """
    after = decision.state_after
    result = session.execute(
        update(RolloutState)
        .where(RolloutState.domain == domain, RolloutState.version == lock_version)
        .values(
            version=lock_version + 1,
            stage=after.stage,
            mode=after.mode,
            policy_version=after.policy_version,
            state=after.to_json(),
            updated_at=now,
        )
        .execution_options(synchronize_session=False)
    )
    if cast(CursorResult[Any], result).rowcount != 1:
        raise LostRace(
            f"domain {domain}: its state moved on from version {lock_version} while "
            f"{actor} decided to {decision.action}; nothing was changed, try again"
        )
    row = DecisionRow(
        domain=domain,
        at=now,
        last_at=now,
        repeats=1,
        action=decision.action,
        rule=decision.rule,
        reason=decision.reason,
        actor=actor,
        evidence=dict(decision.facts),
        state_before=state_before.to_json(),
        state_after=after.to_json(),
        policy_version=after.policy_version,
        spec_hash=spec_hash,
    )
    row = _folded(session, row) or _added(session, row)
    _settle_incidents(session, decision, row, now)
    return lock_version + 1


def record_event(
    session: Session,
    *,
    domain: str,
    action: str,
    reason: str,
    actor: str,
    now: datetime,
    facts: Mapping[str, Any] | None = None,
) -> int:
    """Write a ledger row that changes no state (apply, plan, calibrate, kill switch).

    Returns the row's id.

    Raises:
        RolloutError: the domain was never applied.
    """
    applied = session.get(Domain, domain)
    if applied is None:
        raise RolloutError(f"domain {domain!r} is not in the store: run `rollout apply` first")
    standing = session.get(RolloutState, domain)
    state = {} if standing is None else standing.state
    row = DecisionRow(
        domain=domain,
        at=now,
        last_at=now,
        repeats=1,
        action=action,
        rule=EVENT,
        reason=reason,
        actor=actor,
        evidence=dict(facts or {}),
        state_before=state,
        state_after=state,
        policy_version=None if standing is None else standing.policy_version,
        spec_hash=applied.spec_hash,
    )
    return _added(session, row).id


def history(session: Session, domain: str, limit: int) -> list[DecisionRow]:
    """The newest `limit` ledger rows of a domain, newest first."""
    return list(
        session.scalars(
            select(DecisionRow)
            .where(DecisionRow.domain == domain)
            .order_by(DecisionRow.id.desc())
            .limit(limit)
        )
    )


def _added(session: Session, row: DecisionRow) -> DecisionRow:
    session.add(row)
    session.flush()
    return row


def _folded(session: Session, row: DecisionRow) -> DecisionRow | None:
    """The domain's last row with `row` folded into it; None where they differ."""
    if row.action != HOLD:
        return None
    last = next(iter(history(session, row.domain, 1)), None)
    if last is None or _kind(last) != _kind(row):
        return None
    last.repeats += 1
    last.last_at = row.last_at
    last.reason = row.reason
    last.evidence = row.evidence
    last.state_before = row.state_before
    last.state_after = row.state_after
    session.flush()
    return last


def _kind(row: DecisionRow) -> tuple[object, ...]:
    return row.action, row.rule, row.actor, row.spec_hash, row.policy_version


def _settle_incidents(
    session: Session, decision: Decision, row: DecisionRow, now: datetime
) -> None:
    still_open = session.scalars(
        select(Incident).where(Incident.domain == row.domain, Incident.closed_at.is_(None))
    ).all()
    judged = decision.verdict not in (None, "error")
    for incident in still_open:
        over = judged and incident.kind in PASSING_ERRORS
        if over or decision.action in CLOSES_INCIDENTS:
            incident.closed_at = now
    if decision.incident is not None and all(
        incident.kind != decision.incident for incident in still_open
    ):
        session.add(
            Incident(
                domain=row.domain,
                opened_at=now,
                kind=decision.incident,
                summary=decision.reason,
                decision_id=row.id,
            )
        )
    session.flush()
