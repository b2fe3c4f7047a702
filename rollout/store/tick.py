"""The loop around `decide`: read what is new, decide, write it down, all in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from rollout.control.alarms import wants_tighter
from rollout.control.decide import decide
from rollout.control.decision import Decision, Evidence, CertifiedThreshold
from rollout.control.spec import DomainSpec
from rollout.control.state import Comparison, DomainState, tolerated
from rollout.stats.thresholds import ThresholdChoice, choose_threshold
from rollout.stats.traces import trace_arrays
from rollout.store.catalog import kill_switch, load_policy, newest_version, save_policy
from rollout.store.domains import load_domain
from rollout.store.ledger import LostRace, commit_decision, load_state
from rollout.store.models import Outcome
from rollout.store.outcomes import is_evidence, mark_monitored, recent_traces, unmonitored
from rollout.store.session import Store
from rollout.values import ExitPolicy

ROWS_PER_TICK = 20_000
TRACES_TO_TIGHTEN = 500
"""The newest only: older ones speak of the traffic before the drop."""

CONTROLLER = "controller"


@dataclass(frozen=True)
class _Tightening:
    policy: ExitPolicy
    labels: tuple[str, ...]
    choice: ThresholdChoice


def tick(store: Store, domain: str, now: datetime) -> Decision | None:
    """Count a domain's new outcomes and decide once. None where the domain has no state yet.

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
        rows = unmonitored(session, domain, ROWS_PER_TICK)
        comparisons = [
            Comparison(
                at=row.created_at,
                matched=row.agreement == 1.0,
                exited=row.policy_exit_layer is not None,
                label=row.full_answer or "",
            )
            for row in rows
            # Another policy's answers say nothing of this one.
            if is_evidence(row) and row.policy_version == state.policy_version
        ]
        state = replace(state, monitor=state.monitor.update(comparisons, len(rows)))
        tightening = _tightening(session, applied.spec, state, domain)
        evidence = _evidence(session, domain, state, rows, comparisons, tightening)
        decision = decide(applied.spec, state, evidence, now)
        if decision.action == "tighten" and tightening is not None:
            version = save_policy(
                session,
                tightening.policy,
                tightening.labels,
                tightening.choice.to_json(),
                CONTROLLER,
                now,
            )
            if version != tightening.policy.version:
                raise LostRace(
                    f"domain {domain}: policy v{tightening.policy.version} was calibrated by "
                    "somebody else while the controller decided to tighten; nothing was changed"
                )
        decision = replace(decision, facts=decision.facts | {"evidence": evidence.to_json()})
        mark_monitored(session, [row.id for row in rows])
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


def _evidence(
    session: Session,
    domain: str,
    state: DomainState,
    rows: Sequence[Outcome],
    comparisons: Sequence[Comparison],
    tightening: _Tightening | None,
) -> Evidence:
    last = state.monitor.last_comparison_at or state.stage_since
    switch = kill_switch(session)
    tighter = None
    if tightening is not None:
        tighter = CertifiedThreshold(
            policy_version=tightening.policy.version,
            threshold=tightening.choice.threshold,
            certified_risk=tightening.choice.certified_risk,
            rows=tightening.choice.rows,
        )
    return Evidence(
        requests=len(rows),
        comparisons=len(comparisons),
        not_comparable=sum(row.not_comparable is not None for row in rows),
        oldest_unseen=session.scalar(
            select(func.min(Outcome.created_at)).where(
                Outcome.domain == domain, Outcome.created_at > last
            )
        ),
        killed=switch is not None and switch.on,
        tighter=tighter,
    )


def _tightening(
    session: Session, spec: DomainSpec, state: DomainState, domain: str
) -> _Tightening | None:
    """The live policy with a stricter threshold that its latest traces certify, if there is one."""
    if state.policy_version is None or not wants_tighter(spec, state):
        return None
    policy, labels = load_policy(session, domain, state.policy_version)
    traces = recent_traces(session, domain, policy.heads, TRACES_TO_TIGHTEN)
    if not traces:
        return None
    confidence, agrees, allowed = trace_arrays(traces, policy.never_early)
    choice = choose_threshold(
        confidence,
        agrees,
        allowed,
        policy.exit_layers,
        policy.depth,
        policy.probe_cost,
        tolerated(spec.agreement.target),
        spec.agreement.alpha,
    )
    if choice is None or choice.threshold <= max(policy.thresholds):
        return None
    stricter = replace(
        policy,
        version=newest_version(session, domain) + 1,
        thresholds=(choice.threshold,) * len(policy.thresholds),
    )
    return _Tightening(stricter, labels, choice)
