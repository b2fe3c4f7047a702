"""The figures of one domain over a stretch of time, as a value: report, page and API show these."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from rollout.control.schema import CostSpec, DomainSpec, Spec
from rollout.reporting.accounts import measure_savings
from rollout.reporting.agreement import Agreement, measure_agreement
from rollout.reporting.history import (
    Decision,
    Disagreement,
    IncidentNote,
    StageSpan,
    count_incidents,
    decisions_between,
    disagreements_between,
    incidents_between,
    stage_spans,
)
from rollout.reporting.recommendation import Recommendation, recommend
from rollout.reporting.savings import Savings
from rollout.reporting.series import Series, measure_series
from rollout.reporting.week import IsoWeek
from rollout.store.models import Outcome
from rollout.values import Arm, RolloutError


@dataclass(frozen=True)
class Latency:
    """Time to the answer in milliseconds, by nearest rank."""

    median_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Summary:
    """The numbers of a stretch [start, end) that stand beside those of another.

    Attributes:
        early_share: Early-arm requests over all; None where there were no requests.
        exited: Early-arm requests that did exit early; the others fell back to full depth.
    """

    start: datetime
    end: datetime
    requests: int
    early: int
    control: int
    early_share: float | None
    exited: int
    agreement: Agreement
    savings: Savings
    incidents: int
    early_latency: Latency | None
    control_latency: Latency | None


@dataclass(frozen=True)
class Period:
    """A summary and everything that explains it.

    Attributes:
        depth: Decoder layers of the model; None where there were no requests.
        exit_depths: (exit layer, early-arm requests), shallowest first, None for full depth.
    """

    domain: str
    target: float
    floor: float
    alpha: float
    summary: Summary
    depth: int | None
    exit_depths: tuple[tuple[int | None, int], ...]
    series: Series
    stages: tuple[StageSpan, ...]
    decisions: tuple[Decision, ...]
    incidents: tuple[IncidentNote, ...]
    disagreements: tuple[Disagreement, ...]


@dataclass(frozen=True)
class WeeklyFigures:
    """One week of one domain, with the week before beside it."""

    week: str
    zone: str
    period: Period
    last_week: Summary
    recommendation: Recommendation

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values: times in ISO 8601, rates in [0, 1]."""
        plain: dict[str, Any] = json_value(asdict(self))
        return plain


def weekly_figures(session: Session, spec: Spec, domain: str, week: IsoWeek) -> WeeklyFigures:
    """Everything the weekly report says. Depends on stored rows only, not on the time of asking.

    Raises:
        RolloutError: the spec has no such domain.
    """
    domain_spec = domain_of(spec, domain)
    period = measure_period(session, domain_spec, spec.cost, domain, week.start, week.end)
    before = week.previous
    return WeeklyFigures(
        week=str(week),
        zone=week.zone,
        period=period,
        last_week=summarise(
            session, spec.cost, domain, before.start, before.end, domain_spec.agreement.alpha
        ),
        recommendation=recommend(period.summary, period.stages, period.decisions, domain_spec),
    )


def domain_of(spec: Spec, domain: str) -> DomainSpec:
    """The spec of one domain.

    Raises:
        RolloutError: there is none of this name.
    """
    if domain not in spec.domains:
        known = ", ".join(sorted(spec.domains))
        raise RolloutError(f"no domain {domain!r} in the spec; known domains: {known}")
    return spec.domains[domain]


def measure_period(
    session: Session,
    domain_spec: DomainSpec,
    cost: CostSpec,
    domain: str,
    start: datetime,
    end: datetime,
) -> Period:
    """The figures of [start, end)."""
    within = _within(domain, start, end)
    agreement = domain_spec.agreement
    decisions = decisions_between(session, domain, start, end)
    depths = session.execute(
        select(Outcome.exit_layer, func.count())
        .where(*within, Outcome.arm == "early")
        .group_by(Outcome.exit_layer)
    )
    return Period(
        domain=domain,
        target=agreement.target,
        floor=agreement.floor,
        alpha=agreement.alpha,
        summary=summarise(session, cost, domain, start, end, agreement.alpha),
        depth=session.scalar(select(func.max(Outcome.depth)).where(*within)),
        exit_depths=tuple(
            sorted(
                ((layer, int(count)) for layer, count in depths),
                key=lambda pair: (pair[0] is None, pair[0] or 0),
            )
        ),
        series=measure_series(session, within, cost, agreement.alpha, domain_spec.min_evidence),
        stages=stage_spans(
            session, domain, start, end, decisions, domain_spec.stages, agreement.alpha
        ),
        decisions=decisions,
        incidents=incidents_between(session, domain, start, end),
        disagreements=disagreements_between(session, domain, start, end),
    )


def summarise(
    session: Session, cost: CostSpec, domain: str, start: datetime, end: datetime, alpha: float
) -> Summary:
    """The headline numbers of [start, end)."""
    within = _within(domain, start, end)
    requests, early, exited = session.execute(
        select(
            func.count(),
            func.count().filter(Outcome.arm == "early"),
            func.count(Outcome.exit_layer).filter(Outcome.arm == "early"),
        ).where(*within)
    ).one()
    return Summary(
        start=start,
        end=end,
        requests=int(requests),
        early=int(early),
        control=int(requests) - int(early),
        early_share=int(early) / int(requests) if requests else None,
        exited=int(exited),
        agreement=measure_agreement(session, within, alpha),
        savings=measure_savings(session, within, cost),
        incidents=count_incidents(session, domain, start, end),
        early_latency=_latency(session, domain, start, end, "early", int(early)),
        control_latency=_latency(
            session, domain, start, end, "control", int(requests) - int(early)
        ),
    )


def json_value(value: Any) -> Any:
    """Datetimes to ISO text and tuples to lists, all the way down."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return value


def _within(domain: str, start: datetime, end: datetime) -> tuple[Any, ...]:
    return (Outcome.domain == domain, Outcome.created_at >= start, Outcome.created_at < end)


def _latency(
    session: Session, domain: str, start: datetime, end: datetime, arm: Arm, requests: int
) -> Latency | None:
    if not requests:
        return None
    ranked = (
        select(Outcome.latency_ms)
        .where(*_within(domain, start, end), Outcome.arm == arm)
        .order_by(Outcome.latency_ms)
    )
    median, p95 = (
        session.scalars(ranked.offset(-(-requests * percent // 100) - 1).limit(1)).one()
        for percent in (50, 95)
    )
    return Latency(float(median), float(p95))
