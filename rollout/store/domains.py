"""Domains as applied: spec, labels and template together, since a policy is bound to all three."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from rollout.control.commands import spec_changed
from rollout.control.labels import check_severity, labels_of, never_early
from rollout.control.spec import DomainSpec, Spec, SpecError, diff_specs, spec_hash
from rollout.control.state import DomainState
from rollout.store.catalog import load_policy, save_policy
from rollout.store.ledger import load_state, record_event, replace_state
from rollout.store.models import Domain
from rollout.values import PolicyError, RolloutError


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
        raise UnknownDomain(f"domain {name!r} is unknown; {_hint(name, domain_names(session))}")
    return AppliedDomain(
        row.name,
        DomainSpec.from_json(row.spec),
        row.spec_hash,
        tuple(str(label) for label in row.labels),
        row.template,
    )


def domain_names(session: Session) -> Sequence[str]:
    """All domains that were ever applied, sorted."""
    return session.scalars(select(Domain.name).order_by(Domain.name)).all()


def read_domain(home: Path, name: str, spec: DomainSpec) -> AppliedDomain:
    """A domain as rollout.yaml and the files it names say.

    Raises:
        SpecError: labels or template cannot be read, or a guard or severity names no label.
    """
    labels = labels_of(home / spec.task.labels)
    try:
        never_early(spec, labels)
        check_severity(spec, labels)
    except SpecError as error:
        raise SpecError(f"domains.{name}.{error}") from error
    path = home / spec.task.template
    try:
        # Editors end a file with a newline; the prompt must not.
        template = path.read_text(encoding="utf-8").rstrip("\n")
    except FileNotFoundError:
        raise SpecError(
            f"{path}: there is no such prompt template; write one that uses {{{{ text }}}}, or "
            f"correct domains.{name}.task.template in rollout.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"domains.{name}.task.template: {path} cannot be read as UTF-8 text: {error}"
        ) from error
    return AppliedDomain(name, spec, spec_hash(spec), labels, template)


def plan(session: Session, spec: Spec, home: Path) -> list[DomainChange]:
    """What `apply` would change, in every domain of the spec.

    Raises:
        SpecError: a file named in the spec is wrong.
    """
    return [
        DomainChange(
            name, tuple(_lines(session.get(Domain, name), read_domain(home, name, domain)))
        )
        for name, domain in spec.domains.items()
    ]


def left_out(session: Session, spec: Spec) -> list[str]:
    """Domains that were applied once and are no longer in the spec: they run on as applied."""
    return [name for name in domain_names(session) if name not in spec.domains]


def apply(
    session: Session, spec: Spec, home: Path, *, actor: str, now: datetime
) -> list[DomainChange]:
    """Store the spec's domains and bring their states in line; each change gets a ledger row.

    Never widens: under new stages a domain takes the largest share that is not above its old one.
    New labels or a new template end the live policy, which was fitted to the old ones. A label that
    becomes `never_early` is barred at once, by the live policy's next version.

    Raises:
        SpecError: a file named in the spec is wrong; nothing is applied then.
        RolloutError: somebody else applied a new domain of this name at the same moment.
    """
    wanted = [read_domain(home, name, domain) for name, domain in spec.domains.items()]
    # Locked before they are read, and in one order: what is written below rests on what stands.
    stored = {
        row.name: row
        for row in session.scalars(
            select(Domain)
            .where(Domain.name.in_(spec.domains))
            .order_by(Domain.name)
            .with_for_update(key_share=True)
        )
    }
    changes = []
    for domain in wanted:
        row = stored.get(domain.name)
        lines = _lines(row, domain)
        changes.append(DomainChange(domain.name, tuple(lines)))
        if not lines:
            continue
        state = (
            DomainState.start(domain.spec, now)
            if row is None
            else _state_under(session, row, domain, actor, now)
        )
        _write(session, row, domain, actor, now)
        replace_state(session, domain.name, state, now)
        record_event(
            session,
            domain=domain.name,
            action="apply",
            reason=f"applied by {actor}: {_summary(row, domain, lines)}",
            actor=actor,
            now=now,
            facts={"changes": lines, "spec": domain.spec.to_json()},
        )
    return changes


def _summary(row: Domain | None, domain: AppliedDomain, lines: Sequence[str]) -> str:
    """What changed; of a new domain the promise only, since every key is new."""
    if row is not None:
        return "; ".join(lines)
    promise, stages = domain.spec.agreement, domain.spec.stages
    return (
        f"a new domain with {len(domain.labels)} labels, target {promise.target:g}, "
        f"floor {promise.floor:g}, stages {', '.join(f'{stage:g}' for stage in stages)}"
    )


def _write(
    session: Session, row: Domain | None, domain: AppliedDomain, actor: str, now: datetime
) -> None:
    if row is None:
        row = Domain(name=domain.name)
        session.add(row)
    row.spec = domain.spec.to_json()
    row.spec_hash = domain.spec_hash
    row.labels = list(domain.labels)
    row.template = domain.template
    row.applied_at = now
    row.applied_by = actor
    try:
        session.flush()
    except IntegrityError as error:
        raise RolloutError(
            f"domain {domain.name!r} was applied by somebody else just now: run it again"
        ) from error


def _state_under(
    session: Session, row: Domain, domain: AppliedDomain, actor: str, now: datetime
) -> DomainState:
    """Where a domain stands once this is applied. Its state stays locked against the controller."""
    found = load_state(session, domain.name, locked=True)
    if found is None:
        return DomainState.start(domain.spec, now)
    state = spec_changed(DomainSpec.from_json(row.spec), domain.spec, found[0], now)
    if tuple(row.labels) != domain.labels or row.template != domain.template:
        return replace(state.entering(domain.spec, 0, now), policy_version=None)
    return _barred(session, domain, state, actor, now)


def _barred(
    session: Session, domain: AppliedDomain, state: DomainState, actor: str, now: datetime
) -> DomainState:
    """The state, under a live policy that bars every label the spec bars.

    A guard that was lifted stays in the policy until the next calibration: apply never widens.
    """
    if state.policy_version is None:
        return state
    try:
        policy, labels = load_policy(session, domain.name, state.policy_version)
    except PolicyError:
        # It cannot be served either.
        return state
    wanted = policy.never_early | never_early(domain.spec, domain.labels)
    if wanted == policy.never_early:
        return state
    stricter = replace(policy, never_early=wanted)
    certificate = {"stricter_than": policy.version}
    version = save_policy(session, stricter, labels, certificate, actor, now)
    return replace(state, policy_version=version)


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


def _hint(name: str, known: Sequence[str]) -> str:
    if not known:
        return "none was applied yet: `rollout apply`"
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
