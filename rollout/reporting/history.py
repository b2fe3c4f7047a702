"""What was decided, what went wrong, which answers differed: rows people read one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from rollout.reporting.agreement import COMPARED, Estimate, measure_agreement
from rollout.store.models import DecisionRow, ExitPolicyRow, Incident, Outcome, Trace


@dataclass(frozen=True)
class Decision:
    """One row of the ledger; `repeats` equal holds between `at` and `last_at` were folded."""

    id: int
    at: datetime
    last_at: datetime
    repeats: int
    action: str
    rule: str
    reason: str
    actor: str
    policy_version: int | None
    stage_before: int | None
    stage_after: int | None
    mode_after: str | None

    @property
    def changed_stage(self) -> bool:
        return self.stage_before != self.stage_after and self.stage_after is not None

    @property
    def widened(self) -> bool:
        return self.changed_stage and (self.stage_after or 0) > (self.stage_before or 0)


@dataclass(frozen=True)
class IncidentNote:
    """Something a person should know about; `closed_at` is None while it is open."""

    opened_at: datetime
    closed_at: datetime | None
    kind: str
    summary: str


@dataclass(frozen=True)
class StageSpan:
    """A stretch of time on one stage. `weight` is the early arm's share the spec sets for it."""

    start: datetime
    end: datetime
    stage: int
    weight: float | None
    requests: int
    early: int
    policy: Estimate | None
    ended_by: str


@dataclass(frozen=True)
class Disagreement:
    """A compared request whose early answer was not the full model's.

    Attributes:
        served: Whether the early answer was given to the customer; a control request got the full
            one, and the early answer is what the policy would have given.
        text: The request, or where its text is not kept, what stands for it.
    """

    request_id: str
    at: datetime
    served: bool
    early_answer: str
    full_answer: str
    exit_layer: int | None
    confidence: float | None
    text: str


def decisions_between(
    session: Session, domain: str, start: datetime, end: datetime
) -> tuple[Decision, ...]:
    """Decisions taken, or still being repeated, in [start, end), oldest first."""
    rows = session.scalars(
        select(DecisionRow)
        .where(DecisionRow.domain == domain, DecisionRow.at < end, DecisionRow.last_at >= start)
        .order_by(DecisionRow.at, DecisionRow.id)
    )
    decisions: list[Decision] = []
    for row in rows:
        decisions.append(_decision(row, decisions[-1].stage_after if decisions else None))
    return tuple(decisions)


def incidents_between(
    session: Session, domain: str, start: datetime, end: datetime
) -> tuple[IncidentNote, ...]:
    """Incidents opened in [start, end), oldest first."""
    rows = session.scalars(
        select(Incident)
        .where(Incident.domain == domain, Incident.opened_at >= start, Incident.opened_at < end)
        .order_by(Incident.opened_at, Incident.id)
    )
    return tuple(IncidentNote(row.opened_at, row.closed_at, row.kind, row.summary) for row in rows)


def count_incidents(session: Session, domain: str, start: datetime, end: datetime) -> int:
    """Incidents opened in [start, end)."""
    return (
        session.scalar(
            select(func.count())
            .select_from(Incident)
            .where(Incident.domain == domain, Incident.opened_at >= start, Incident.opened_at < end)
        )
        or 0
    )


def stage_spans(
    session: Session,
    domain: str,
    start: datetime,
    end: datetime,
    decisions: Sequence[Decision],
    weights: Sequence[float],
    alpha: float,
) -> tuple[StageSpan, ...]:
    """The stages passed through in [start, end), with what was compared on each."""
    changes = [
        decision for decision in decisions if decision.changed_stage and decision.at >= start
    ]
    stage = changes[0].stage_before if changes else _stage_at(session, domain, end)
    if stage is None:
        return ()
    spans = []
    since = start
    for change in [*changes, None]:
        until = change.at if change else end
        reason = change.reason if change else ""
        if until > since:
            spans.append(_span(session, domain, since, until, stage, weights, alpha, reason))
        if change and change.stage_after is not None:
            since, stage = until, change.stage_after
    return tuple(spans)


def disagreements_between(
    session: Session, domain: str, start: datetime, end: datetime, most: int = 5
) -> tuple[Disagreement, ...]:
    """The surest wrong answers first: those served, then those the policy would have served."""
    rows = session.scalars(
        select(Outcome)
        .where(
            Outcome.domain == domain,
            Outcome.created_at >= start,
            Outcome.created_at < end,
            COMPARED,
            Outcome.agreement < 1,
            or_(Outcome.exit_layer.is_not(None), Outcome.arm == "control"),
        )
        .order_by(
            Outcome.arm.desc(),
            func.coalesce(Outcome.confidence, -1).desc(),
            Outcome.created_at,
            Outcome.request_id,
        )
        .limit(most)
    )
    return tuple(_disagreement(session, row) for row in rows)


def _decision(row: DecisionRow, stage_before: int | None) -> Decision:
    """`stage_before` is where the decision before it led, if there is one: applying a new spec can
    move a domain to another stage, and its row carries the new state alone."""
    return Decision(
        id=row.id,
        at=row.at,
        last_at=row.last_at,
        repeats=row.repeats,
        action=row.action,
        rule=row.rule,
        reason=row.reason,
        actor=row.actor,
        policy_version=row.policy_version,
        stage_before=_stage(row.state_before) if stage_before is None else stage_before,
        stage_after=_stage(row.state_after),
        mode_after=row.state_after.get("mode"),
    )


def _stage(state: dict[str, Any]) -> int | None:
    stage = state.get("stage")
    return int(stage) if stage is not None else None


def _stage_at(session: Session, domain: str, moment: datetime) -> int | None:
    state = session.scalar(
        select(DecisionRow.state_after)
        .where(DecisionRow.domain == domain, DecisionRow.at < moment)
        .order_by(DecisionRow.at.desc(), DecisionRow.id.desc())
        .limit(1)
    )
    return _stage(state) if state else None


def _span(
    session: Session,
    domain: str,
    since: datetime,
    until: datetime,
    stage: int,
    weights: Sequence[float],
    alpha: float,
    ended_by: str,
) -> StageSpan:
    within = (
        Outcome.domain == domain,
        Outcome.created_at >= since,
        Outcome.created_at < until,
    )
    requests, early = session.execute(
        select(func.count(), func.count().filter(Outcome.arm == "early")).where(*within)
    ).one()
    return StageSpan(
        start=since,
        end=until,
        stage=stage,
        weight=weights[stage] if stage < len(weights) else None,
        requests=int(requests),
        early=int(early),
        policy=measure_agreement(session, within, alpha).policy,
        ended_by=ended_by,
    )


def _disagreement(session: Session, row: Outcome) -> Disagreement:
    served = row.arm == "early"
    traced = None if served else _traced_answer(session, row)
    answer, confidence = traced or (row.answer, row.confidence)
    return Disagreement(
        request_id=row.request_id,
        at=row.created_at,
        served=served,
        early_answer=answer,
        full_answer=row.full_answer or row.answer,
        exit_layer=row.exit_layer if served else row.policy_exit_layer,
        confidence=confidence,
        text=row.text if row.text is not None else f"text not stored (hash {row.text_hash[:12]})",
    )


def _traced_answer(session: Session, row: Outcome) -> tuple[str, float | None] | None:
    """What the policy would have answered in place of a control request's full answer."""
    trace = session.get(Trace, row.request_id)
    labels = session.scalar(
        select(ExitPolicyRow.labels).where(
            ExitPolicyRow.domain == row.domain, ExitPolicyRow.version == row.policy_version
        )
    )
    if trace is None or labels is None or row.policy_exit_layer not in trace.exit_layers:
        return None
    exit_index = trace.exit_layers.index(row.policy_exit_layer)
    return str(labels[trace.answers[exit_index]]), trace.confidences[exit_index]
