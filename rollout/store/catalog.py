"""What is set for all workers to read: exit policies by version, the kill switch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from rollout.store.ledger import record_event
from rollout.store.models import Domain, ExitPolicyRow, Switch
from rollout.values import ExitPolicy, PolicyError, RolloutError

KILL = "kill"


def save_policy(
    session: Session,
    policy: ExitPolicy,
    labels: Sequence[str],
    certificate: Mapping[str, Any],
    created_by: str,
    now: datetime,
) -> int:
    """Store a policy as the domain's next version, whatever `policy.version` says; returns it.

    Versions are never changed afterwards.

    Raises:
        RolloutError: the domain was never applied.
    """
    # Two calibrations at once must not draw one version. KEY SHARE locks, which inserted outcomes
    # take on their domain, pass this one.
    domain = session.scalar(
        select(Domain).where(Domain.name == policy.domain).with_for_update(key_share=True)
    )
    if domain is None:
        raise RolloutError(
            f"domain {policy.domain!r} is not in the store: run `rollout apply` first"
        )
    version = newest_version(session, policy.domain) + 1
    session.add(
        ExitPolicyRow(
            domain=policy.domain,
            version=version,
            exit_layers=list(policy.exit_layers),
            thresholds=list(policy.thresholds),
            never_early=sorted(policy.never_early),
            labels=list(labels),
            heads=policy.heads,
            criterion=policy.criterion,
            model_revision=policy.model_revision,
            depth=policy.depth,
            probe_cost=policy.probe_cost,
            layer_ms=policy.layer_ms,
            certificate=dict(certificate),
            created_at=now,
            created_by=created_by,
        )
    )
    session.flush()
    return version


def newest_version(session: Session, domain: str) -> int:
    """The highest policy version of a domain; 0 before the first calibration."""
    newest = session.scalar(
        select(func.max(ExitPolicyRow.version)).where(ExitPolicyRow.domain == domain)
    )
    return newest or 0


def load_policy(session: Session, domain: str, version: int) -> tuple[ExitPolicy, tuple[str, ...]]:
    """A policy version and the labels its answers index.

    Raises:
        PolicyError: there is no such version, or what is stored cannot be served.
    """
    row = session.scalar(
        select(ExitPolicyRow).where(
            ExitPolicyRow.domain == domain, ExitPolicyRow.version == version
        )
    )
    if row is None:
        raise PolicyError(f"policy {domain} v{version} is not in the store")
    return policy_of(row), tuple(str(label) for label in row.labels)


def policy_of(row: ExitPolicyRow) -> ExitPolicy:
    """The value a stored policy stands for.

    Raises:
        PolicyError: what is stored cannot be served.
    """
    try:
        return ExitPolicy(
            domain=row.domain,
            version=row.version,
            exit_layers=tuple(int(layer) for layer in row.exit_layers),
            thresholds=tuple(float(threshold) for threshold in row.thresholds),
            heads=row.heads,
            criterion=row.criterion,
            model_revision=row.model_revision,
            depth=row.depth,
            never_early=frozenset(int(label) for label in row.never_early),
            probe_cost=row.probe_cost,
            layer_ms=row.layer_ms,
        )
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"policy {row.domain} v{row.version} is stored damaged: {error}"
        ) from error


def kill_switch(session: Session) -> Switch | None:
    """The kill switch as last set; None where it never was (off)."""
    return session.get(Switch, KILL)


def set_kill_switch(session: Session, *, on: bool, actor: str, reason: str, now: datetime) -> bool:
    """Turn the kill switch, with a ledger row for every domain. Returns whether it moved."""
    switch = session.get(Switch, KILL)
    if (switch is not None and switch.on) == on:
        return False
    if switch is None:
        switch = Switch(name=KILL)
        session.add(switch)
    switch.on = on
    switch.changed_at = now
    switch.changed_by = actor
    switch.reason = reason
    session.flush()
    for name in session.scalars(select(Domain.name).order_by(Domain.name)).all():
        record_event(
            session,
            domain=name,
            action="kill_switch",
            reason=f"kill switch turned {'on' if on else 'off'} by {actor}: {reason}",
            actor=actor,
            now=now,
            facts={"on": on},
        )
    return True
