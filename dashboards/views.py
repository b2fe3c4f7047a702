"""What the console shows of a domain, as a value: pages and API read the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from rollout.control.certificate import certificate
from rollout.control.decision import Action
from rollout.control.schema import DomainSpec, Spec
from rollout.control.state import DomainState
from rollout.reporting.figures import Period, domain_of, json_value, measure_period
from rollout.reporting.history import Decision
from rollout.reporting.savings import request_account
from rollout.reporting.wording import duration, percent
from rollout.stats.promotion import expected_more
from rollout.store import catalog, ledger
from rollout.store.models import DecisionRow, Incident, Outcome, RolloutState
from rollout.store.queries import explain

SHOWN = timedelta(days=7)
"""How far back a page looks."""

DECIDED = frozenset(get_args(Action))
"""What explains where a domain stands; the ledger also records events, such as an applied spec."""

Tone = Literal["good", "bad", ""]


@dataclass(frozen=True)
class Health:
    """How a domain is, in words; `tone` only colours them."""

    words: str
    tone: Tone


@dataclass(frozen=True)
class Progress:
    """Comparisons since the stage began, and about how many the next promotion takes.

    `needed` is None where agreement is not above the floor, so that nothing can be told.
    """

    compared: int
    needed: int | None
    next_weight: float


@dataclass(frozen=True)
class DomainView:
    """One domain as it stands. `state` is None until the domain is applied."""

    name: str
    spec: DomainSpec
    state: DomainState | None
    weight: float
    health: Health
    progress: Progress | None
    latest: Decision | None
    open_incidents: int
    period: Period

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values: times in ISO 8601, shares in [0, 1]."""
        plain: dict[str, Any] = json_value(
            {
                "name": self.name,
                "stage": self.state.stage if self.state else None,
                "stages": self.spec.stages,
                "stage_weight": self.weight,
                "stage_since": self.state.stage_since if self.state else None,
                "mode": self.state.mode if self.state else None,
                "policy_version": self.state.policy_version if self.state else None,
                "health": asdict(self.health),
                "progress": asdict(self.progress) if self.progress else None,
                "latest_decision": asdict(self.latest) if self.latest else None,
                "open_incidents": self.open_incidents,
                "figures": asdict(self.period),
            }
        )
        return plain


def domain_view(session: Session, spec: Spec, name: str, now: datetime) -> DomainView:
    """A domain over the last seven days that had traffic.

    Raises:
        RolloutError: the spec has no such domain.
    """
    domain_spec = domain_of(spec, name)
    loaded = ledger.load_state(session, name)
    state = loaded[0] if loaded else None
    latest_outcome = session.scalar(
        select(func.max(Outcome.created_at)).where(Outcome.domain == name)
    )
    latest_decision = session.scalar(
        select(func.max(DecisionRow.last_at)).where(DecisionRow.domain == name)
    )
    seen = [moment for moment in (latest_outcome, latest_decision) if moment is not None]
    newest = max(seen, default=now)
    after = newest + timedelta(microseconds=1)
    period = measure_period(session, domain_spec, spec.cost, name, newest - SHOWN, after)
    open_incidents = session.scalar(
        select(func.count())
        .select_from(Incident)
        .where(Incident.domain == name, Incident.closed_at.is_(None))
    )
    switch = catalog.kill_switch(session)
    return DomainView(
        name=name,
        spec=domain_spec,
        state=state,
        weight=state.stage_weight(domain_spec) if state else 0.0,
        health=_health(state, domain_spec, bool(switch and switch.on), open_incidents or 0, now),
        progress=_progress(state, domain_spec),
        latest=next(
            (decision for decision in reversed(period.decisions) if decision.action in DECIDED),
            None,
        ),
        open_incidents=open_incidents or 0,
        period=period,
    )


def change_token(session: Session, name: str) -> str:
    """Differs after every new outcome, decision, incident or switch.

    Costs the same however long the history; a replay, which amends an old row, shows with the next
    change.
    """
    newest = session.scalar(
        select(Outcome.id).where(Outcome.domain == name).order_by(Outcome.id.desc()).limit(1)
    )
    version = session.scalar(select(RolloutState.version).where(RolloutState.domain == name))
    decision, last_at = session.execute(
        select(func.max(DecisionRow.id), func.max(DecisionRow.last_at)).where(
            DecisionRow.domain == name
        )
    ).one()
    opened, closed = session.execute(
        select(func.count(), func.count(Incident.closed_at)).where(Incident.domain == name)
    ).one()
    switch = catalog.kill_switch(session)
    parts = [newest, version, decision, opened, closed, bool(switch and switch.on)]
    moment = int(last_at.timestamp()) if last_at else 0
    return "-".join(str(int(part or 0)) for part in [*parts, moment])


def request_json(session: Session, request_id: str) -> dict[str, Any]:
    """What `rollout explain` knows of one request, and its account in layers.

    Raises:
        RolloutError: no such request is stored.
    """
    found = explain(session, request_id)
    row = found.outcome
    account = request_account(
        row["arm"],
        row["depth"],
        row["layers_run"],
        row["probes"],
        row["probe_cost"],
        row["shadow_layers"],
        row["replay_layers"],
    )
    plain: dict[str, Any] = json_value(
        {**found.to_json(), "layers": {**asdict(account), "net": account.net}}
    )
    return plain


def _health(
    state: DomainState | None,
    domain_spec: DomainSpec,
    killed: bool,
    open_incidents: int,
    now: datetime,
) -> Health:
    if killed:
        return Health("Kill switch on: everybody gets full depth", "bad")
    if state is None:
        return Health("Not applied yet", "")
    if state.policy_version is None:
        return Health("No exit policy yet: run rollout calibrate", "")
    if state.mode == "aborted":
        return Health("Withdrawn by a person", "bad")
    if state.mode == "locked":
        return Health("Locked after too many setbacks: rollout resume", "bad")
    if open_incidents:
        return Health(f"{open_incidents} open incident{'s' if open_incidents > 1 else ''}", "bad")
    if state.mode == "paused":
        return Health("Paused by a person", "")
    compared_at = state.monitor.last_comparison_at
    if compared_at is None:
        return Health("No comparisons yet", "")
    age = now - compared_at
    if age > domain_spec.evidence.stale_after:
        return Health(f"No comparison for {duration(age.total_seconds())}", "")
    return Health("Healthy", "good")


def _progress(state: DomainState | None, domain_spec: DomainSpec) -> Progress | None:
    if state is None or state.stage + 1 >= len(domain_spec.stages):
        return None
    test, more = state.monitor.promotion, certificate(domain_spec, state).more
    if not test.count:
        level = state.error_budget(domain_spec).level
        more = expected_more(test, level, domain_spec.agreement.target)
    needed = None if more is None else max(test.count + more, domain_spec.min_evidence)
    return Progress(test.count, needed, domain_spec.stages[state.stage + 1])


def progress_words(progress: Progress) -> str:
    """Such as: 412 of about 600 comparisons needed before 5 %."""
    if progress.needed is None:
        return (
            f"{progress.compared:,} comparisons at this stage; agreement is not above the floor, "
            f"so {percent(progress.next_weight)} is out of reach"
        )
    return (
        f"{progress.compared:,} of about {progress.needed:,} comparisons needed "
        f"before {percent(progress.next_weight)}"
    )
