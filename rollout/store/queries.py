"""What people ask of the store: where every domain stands, and why one request went as it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from rollout.control.decision import Evidence
from rollout.control.facts import facts_of, moment
from rollout.control.spec import DomainSpec
from rollout.control.state import DomainState
from rollout.control.verdicts import Verdict, verdict_of
from rollout.store.catalog import kill_switch, load_policy
from rollout.store.ledger import EVENT, load_state
from rollout.store.models import DecisionRow, Domain, Incident, Outcome, Trace
from rollout.values import ExitPolicy, PolicyError, RolloutError


@dataclass(frozen=True)
class DomainStatus:
    """Where a domain stands.

    Attributes:
        killed: Whether the kill switch is on, for all domains.
        reason: The last decision's, in words; None before the first one.
        verdict: Its verdict on the evidence; None before the first one and for a person's.
        decided_at: When that was (last) decided.
        facts: As `rollout.control.facts.facts_of` gives them, from the stored state.
        open_incidents: One line each, oldest first.
    """

    domain: str
    mode: str
    killed: bool
    reason: str | None
    verdict: Verdict | None
    decided_at: datetime | None
    facts: dict[str, Any]
    open_incidents: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        at = self.decided_at
        return asdict(self) | {
            "decided_at": None if at is None else at.isoformat(),
            "open_incidents": list(self.open_incidents),
        }


@dataclass(frozen=True)
class Explanation:
    """All that the store knows of one request, as JSON values.

    Attributes:
        outcome: The columns of `models.Outcome` by name.
        exits: Per exit layer of the trace: layer, answer, confidence (None: not finite), threshold
            (None: the policy has no exit there). Empty where the request has no trace.
        policy: The policy it was answered or judged under; None where there was none.
        decision: The decision that was the domain's last when the request was answered.
    """

    outcome: dict[str, Any]
    exits: tuple[dict[str, Any], ...]
    policy: dict[str, Any] | None
    decision: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"exits": list(self.exits)}


def status(session: Session, now: datetime) -> list[DomainStatus]:
    """Every applied domain, by name."""
    switch = kill_switch(session)
    killed = switch is not None and switch.on
    rows = []
    for domain in session.scalars(select(Domain).order_by(Domain.name)).all():
        spec = DomainSpec.from_json(domain.spec)
        found = load_state(session, domain.name)
        state = DomainState.start(spec, domain.applied_at) if found is None else found[0]
        last = _last_decision(session, domain.name, now)
        rows.append(
            DomainStatus(
                domain=domain.name,
                mode=state.mode,
                killed=killed,
                reason=None if last is None else last.reason,
                verdict=None if last is None else verdict_of(last.rule),
                decided_at=None if last is None else last.last_at,
                facts=facts_of(spec, state, Evidence(killed=killed), now),
                open_incidents=tuple(
                    f"{incident.kind} since {moment(incident.opened_at)}: {incident.summary}"
                    for incident in open_incidents(session, domain.name)
                ),
            )
        )
    return rows


def open_incidents(session: Session, domain: str) -> Sequence[Incident]:
    """A domain's incidents that nobody and nothing has closed, oldest first."""
    return session.scalars(
        select(Incident)
        .where(Incident.domain == domain, Incident.closed_at.is_(None))
        .order_by(Incident.id)
    ).all()


def explain(session: Session, request_id: str) -> Explanation:
    """Why a request was answered as it was.

    Raises:
        RolloutError: no such request is stored.
    """
    outcome = session.scalar(select(Outcome).where(Outcome.request_id == request_id))
    if outcome is None:
        raise RolloutError(
            f"request {request_id!r} is not in the store: check the id; a request answered while "
            "the store was down appears once the worker's spool has drained"
        )
    policy, labels = _policy_then(session, outcome)
    trace = session.get(Trace, request_id)
    decision = _last_decision(session, outcome.domain, outcome.created_at)
    return Explanation(
        outcome=_columns(outcome),
        exits=() if trace is None else tuple(_exits(trace, policy, labels)),
        policy=None
        if policy is None
        else asdict(policy) | {"never_early": [labels[label] for label in policy.never_early]},
        decision=None if decision is None else _columns(decision),
    )


def _policy_then(session: Session, outcome: Outcome) -> tuple[ExitPolicy | None, tuple[str, ...]]:
    if outcome.policy_version is None:
        return None, ()
    try:
        return load_policy(session, outcome.domain, outcome.policy_version)
    except PolicyError:
        return None, ()


def _exits(trace: Trace, policy: ExitPolicy | None, labels: Sequence[str]) -> list[dict[str, Any]]:
    thresholds = (
        {} if policy is None else dict(zip(policy.exit_layers, policy.thresholds, strict=True))
    )
    return [
        {
            "layer": layer,
            "answer": labels[answer] if answer < len(labels) else f"label {answer}",
            "confidence": confidence,
            "threshold": thresholds.get(layer),
        }
        for layer, answer, confidence in zip(
            trace.exit_layers, trace.answers, trace.confidences, strict=True
        )
    ]


def _last_decision(session: Session, domain: str, at: datetime) -> DecisionRow | None:
    return session.scalar(
        select(DecisionRow)
        .where(DecisionRow.domain == domain, DecisionRow.at <= at, DecisionRow.rule != EVENT)
        .order_by(DecisionRow.at.desc(), DecisionRow.id.desc())
        .limit(1)
    )


def _columns(row: Outcome | DecisionRow) -> dict[str, Any]:
    values = {column.key: getattr(row, column.key) for column in row.__table__.columns}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }
