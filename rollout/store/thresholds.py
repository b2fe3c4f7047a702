"""A moved threshold as the next policy version: stricter or bolder, certified beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from rollout.control.alarms import wants_tighter
from rollout.control.decision import CertifiedThreshold
from rollout.control.ladder import trace_severity
from rollout.control.loosening import wants_looser
from rollout.control.spec import DomainSpec
from rollout.control.state import DomainState, tolerated
from rollout.stats.thresholds import choose_threshold
from rollout.stats.traces import trace_arrays
from rollout.store.catalog import newest_version, save_policy
from rollout.store.folding import News
from rollout.store.ledger import LostRace
from rollout.store.outcomes import recent_traces
from rollout.values import ExitPolicy

TRACES_TO_TIGHTEN = 500
"""The newest only: older ones speak of the traffic before the drop."""


@dataclass(frozen=True)
class MovedThreshold:
    """A policy that could become the next version, and what certifies it."""

    policy: ExitPolicy
    labels: tuple[str, ...]
    certificate: Mapping[str, Any]
    evidence: CertifiedThreshold

    def save(self, session: Session, actor: str, now: datetime) -> None:
        """Store it as the domain's next version.

        Raises:
            LostRace: somebody else stored a version first.
        """
        version = save_policy(session, self.policy, self.labels, self.certificate, actor, now)
        if version != self.policy.version:
            raise LostRace(
                f"domain {self.policy.domain}: policy v{self.policy.version} was calibrated by "
                "somebody else while the controller moved the threshold; nothing was changed"
            )


def tighter(
    session: Session, spec: DomainSpec, state: DomainState, news: News
) -> MovedThreshold | None:
    """The live policy with a stricter threshold that its latest traces certify, if there is one."""
    policy = news.policy
    if policy is None or not wants_tighter(spec, state):
        return None
    traces = recent_traces(session, policy.domain, policy.heads, TRACES_TO_TIGHTEN)
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
        severity=trace_severity(spec.agreement, traces, news.labels),
    )
    if choice is None or choice.threshold <= max(policy.thresholds):
        return None
    return _moved(
        session,
        news,
        policy,
        choice.threshold,
        choice.certified_risk,
        choice.rows,
        choice.to_json(),
    )


def looser(
    session: Session, spec: DomainSpec, state: DomainState, news: News, now: datetime
) -> MovedThreshold | None:
    """The live policy with the boldest threshold of its ladder, where that is a bolder one."""
    policy, ladder = news.policy, state.ladder
    if policy is None or ladder is None or not wants_looser(spec, state, now):
        return None
    test = ladder.test
    if test.threshold is None or test.threshold >= min(policy.thresholds):
        return None
    certificate = {
        "loosened_from": policy.version,
        "ladder": state.ladders,
        "alpha": test.alpha,
        "risk_limit": test.limit,
        "rows": test.count,
        "tried": [{"threshold": threshold} for threshold in test.thresholds],
    }
    return _moved(session, news, policy, test.threshold, test.limit, test.count, certificate)


def _moved(
    session: Session,
    news: News,
    policy: ExitPolicy,
    threshold: float,
    certified_risk: float,
    rows: int,
    certificate: Mapping[str, Any],
) -> MovedThreshold:
    version = newest_version(session, policy.domain) + 1
    after = replace(policy, version=version, thresholds=(threshold,) * len(policy.thresholds))
    evidence = CertifiedThreshold(version, threshold, certified_risk, rows)
    return MovedThreshold(after, news.labels, certificate, evidence)
