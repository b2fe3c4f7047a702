"""Domains as applied: spec, labels and template together, since a policy is bound to all three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from rollout.control.commands import spec_changed
from rollout.control.labels import labels_of, never_early
from rollout.control.spec import DomainSpec, Spec, SpecError, diff_specs, spec_hash
from rollout.control.state import DomainState
from rollout.store.ledger import load_state, record_event, replace_state
from rollout.store.models import Domain
from rollout.values import RolloutError


class UnknownDomain(RolloutError):
    """A domain that was never applied."""


@dataclass(frozen=True)
class AppliedDomain:
    """A domain as workers and controller see it."""

    name: str
    spec: DomainSpec
    spec_hash: str
    labels: tuple[str, ...]
    template: str


@dataclass(frozen=True)
class DomainChange:
    """What applying the spec changes in one domain: one line per key, empty where nothing does."""

    domain: str
    lines: tuple[str, ...]


def load_domain(session: Session, name: str) -> AppliedDomain:
    """Raises UnknownDomain, naming the domains that there are."""
    row = session.get(Domain, name)
    if row is None:
        known = session.scalars(select(Domain.name).order_by(Domain.name)).all()
        there = f"known: {', '.join(known)}" if known else "none was applied yet: `rollout apply`"
        raise UnknownDomain(f"domain {name!r} is unknown; {there}")
    return AppliedDomain(
        row.name,
        DomainSpec.from_json(row.spec),
        row.spec_hash,
        tuple(str(label) for label in row.labels),
        row.template,
    )


def read_domain(home: Path, name: str, spec: DomainSpec) -> AppliedDomain:
    """A domain as rollout.yaml and the files it names say.

    Raises:
        SpecError: labels or template cannot be read, or a guard names no label.
    """
    labels = labels_of(home / spec.task.labels)
    never_early(spec, labels)
    path = home / spec.task.template
    try:
        # Editors end a file with a newline; the prompt must not.
        template = path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"domains.{name}.task.template: {path} cannot be read as UTF-8 text: {error}"
        ) from error
    return AppliedDomain(name, spec, spec_hash(spec), labels, template)


def plan(session: Session, spec: Spec, home: Path) -> list[DomainChange]:
    """What `apply` would change, in every domain of the spec."""
    return [
        DomainChange(
            name, tuple(_lines(session.get(Domain, name), read_domain(home, name, domain)))
        )
        for name, domain in spec.domains.items()
    ]


def apply(
    session: Session, spec: Spec, home: Path, *, actor: str, now: datetime
) -> list[DomainChange]:
    """Store the spec's domains and bring their states in line; each change gets a ledger row.

    Never widens: under new stages a domain takes the largest share that is not above its old one.
    New labels or a new template end the live policy, which was fitted to the old ones.

    Raises:
        SpecError: a file named in the spec is wrong; nothing is applied then.
    """
    wanted = [read_domain(home, name, domain) for name, domain in spec.domains.items()]
    changes = []
    for domain in wanted:
        row = session.get(Domain, domain.name)
        lines = _lines(row, domain)
        changes.append(DomainChange(domain.name, tuple(lines)))
        if not lines:
            continue
        if row is None:
            row = Domain(name=domain.name)
            session.add(row)
            state = DomainState.start(domain.spec, now)
        else:
            found = load_state(session, domain.name)
            before = DomainSpec.from_json(row.spec)
            state = (
                DomainState.start(domain.spec, now)
                if found is None
                else spec_changed(before, domain.spec, found[0], now)
            )
            if tuple(row.labels) != domain.labels or row.template != domain.template:
                state = replace(state.entering(domain.spec, 0, now), policy_version=None)
        row.spec = domain.spec.to_json()
        row.spec_hash = domain.spec_hash
        row.labels = list(domain.labels)
        row.template = domain.template
        row.applied_at = now
        row.applied_by = actor
        session.flush()
        replace_state(session, domain.name, state, now)
        record_event(
            session,
            domain=domain.name,
            action="apply",
            reason=f"applied by {actor}: {'; '.join(lines)}",
            actor=actor,
            now=now,
            facts={"changes": lines},
        )
    return changes


def _lines(row: Domain | None, wanted: AppliedDomain) -> list[str]:
    if row is None:
        return [*diff_specs(None, wanted.spec), f"labels: {', '.join(wanted.labels)}"]
    lines = diff_specs(row.spec, wanted.spec)
    lines += _label_lines([str(label) for label in row.labels], wanted.labels)
    if row.template != wanted.template:
        lines.append("the prompt template changed; the live policy ends, calibrate again")
    return lines


def _label_lines(old: Sequence[str], new: Sequence[str]) -> list[str]:
    if tuple(old) == tuple(new):
        return []
    added = [label for label in new if label not in old]
    removed = [label for label in old if label not in new]
    parts = [f"added {', '.join(added)}"] if added else []
    parts += [f"removed {', '.join(removed)}"] if removed else []
    what = "; ".join(parts) or "order changed"
    return [f"labels: {what}; the live policy ends, calibrate again"]
