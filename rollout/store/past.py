"""The stored past of a domain, to be decided again: under another spec, or one row as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from rollout.control.commands import Verb, command
from rollout.control.decide import decide
from rollout.control.decision import Decision, Evidence
from rollout.control.schema import DomainSpec
from rollout.control.state import Comparison, DomainState
from rollout.store.domains import load_domain
from rollout.store.ledger import EVENT, HOLD
from rollout.store.models import DecisionRow, Outcome
from rollout.store.outcomes import is_evidence
from rollout.values import RolloutError

BETWEEN_TICKS = timedelta(minutes=1)
"""Where the ledger does not tell."""


@dataclass(frozen=True)
class PastRequest:
    """An answered request.

    Attributes:
        comparison: None where it was not compared.
        failed: Whether a comparison was due and failed.
        saved_layers: What its early answer saved.
        shadow_layers: What was computed only to compare it.
    """

    at: datetime
    policy_version: int | None
    comparison: Comparison | None
    failed: bool
    saved_layers: int
    shadow_layers: int


@dataclass(frozen=True)
class PastRow:
    """A row of the ledger, of a move or of something done.

    Attributes:
        before: Share of traffic before, where it is known.
        after: Share of traffic after, where it is known.
        policy_version: After it.
        killed: Where it turned the kill switch, to what; else None.
    """

    at: datetime
    action: str
    rule: str
    actor: str
    before: float | None
    after: float | None
    policy_version: int | None
    killed: bool | None

    @property
    def verb(self) -> Verb | None:
        """The person's command that it records; None where it was none."""
        verb = self.rule.removeprefix("command_")
        return cast(Verb, verb) if verb in get_args(Verb) and verb != self.rule else None


@dataclass(frozen=True)
class Past:
    """A domain from `start` to `end`.

    Attributes:
        share: Of traffic at the start.
        policy_version: At the start.
        between_ticks: As the ledger has it.
        rows: All that was decided or done since, plain holds left out.
    """

    start: datetime
    end: datetime
    share: float
    policy_version: int | None
    between_ticks: timedelta
    rows: tuple[PastRow, ...]


def load_past(session: Session, domain: str, since: datetime | None, now: datetime) -> Past:
    """What the ledger says of a domain since a moment, or since its beginning.

    Raises:
        RolloutError: nothing was decided since.
    """
    specs = specs_by_hash(session, domain)
    rows = session.scalars(
        select(DecisionRow).where(DecisionRow.domain == domain).order_by(DecisionRow.id)
    ).all()
    if not rows or (since is not None and rows[-1].last_at < since):
        raise RolloutError(f"nothing was decided in {domain!r} since {since or 'its beginning'}")
    start = max(since or rows[0].at, rows[0].at)
    share, version = 0.0, None
    kept: list[PastRow] = []
    known: list[DecisionRow] = []
    for row in rows:
        before, after = _share(specs, row, row.state_before), _share(specs, row, row.state_after)
        if row.at <= start:
            share, version = after or 0.0, row.policy_version
            continue
        known.append(row)
        # A hold under another policy tells that it went live, whoever did that.
        moved = row.policy_version != (kept[-1].policy_version if kept else version)
        if row.action != HOLD or moved:
            on = row.evidence.get("on") if row.action == "kill_switch" else None
            kept.append(
                PastRow(
                    row.at, row.action, row.rule, row.actor, before, after, row.policy_version, on
                )
            )
    end = max(min(max(row.last_at for row in rows), now), start)
    return Past(start, end, share, version, _between_ticks(known), tuple(kept))


def past_requests(
    session: Session, domain: str, spec: DomainSpec, start: datetime, end: datetime
) -> Iterator[PastRequest]:
    """Answered requests in (start, end], in order of their time.

    Where severities depend on the early answer, those of the control arm count as the costliest
    for their label: its early answers are not kept beside the outcome.
    """
    rows = session.scalars(
        select(Outcome)
        .where(Outcome.domain == domain, Outcome.created_at > start, Outcome.created_at <= end)
        .order_by(Outcome.created_at, Outcome.id)
        .execution_options(yield_per=1_000)
    )
    for row in rows:
        early = row.arm == "early"
        comparison = None
        if is_evidence(row):
            full = row.full_answer or ""
            comparison = Comparison(
                at=row.created_at,
                matched=row.agreement == 1.0,
                exited=row.policy_exit_layer is not None,
                label=full,
                severity=spec.agreement.loss(full, row.answer if early else None),
            )
        yield PastRequest(
            row.created_at,
            row.policy_version,
            comparison,
            row.not_comparable is not None,
            row.depth - row.layers_run if early else 0,
            row.shadow_layers + row.replay_layers if early else 0,
        )


def decided_again(session: Session, decision_id: int) -> tuple[DecisionRow, Decision]:
    """A stored decision, and the same one made again from its row alone.

    Raises:
        RolloutError: there is no such row, it decided nothing, or what it rests on is not stored.
    """
    row = session.get(DecisionRow, decision_id)
    if row is None:
        raise RolloutError(f"there is no decision {decision_id}; `rollout history` shows them")
    if row.rule == EVENT:
        raise RolloutError(f"decision {decision_id} records an event ({row.action}): no decision")
    spec = specs_by_hash(session, row.domain).get(row.spec_hash)
    if spec is None:
        raise RolloutError(
            f"decision {decision_id} was made under a spec that is no longer stored "
            f"({row.spec_hash[:12]}): specs are kept since release 0.2"
        )
    state = DomainState.from_json(row.state_before)
    verb = row.rule.removeprefix("command_")
    if verb != row.rule:
        why = row.evidence.get("why", "")
        return row, command(spec, state, cast(Verb, verb), row.actor, why, row.last_at)
    if "evidence" not in row.evidence:
        raise RolloutError(f"decision {decision_id} has no evidence stored beside it")
    return row, decide(spec, state, Evidence.from_json(row.evidence["evidence"]), row.last_at)


def specs_by_hash(session: Session, domain: str) -> dict[str, DomainSpec]:
    """Every spec of the domain that is stored: the applied one, and those that `apply` recorded."""
    applied = load_domain(session, domain)
    rows = session.execute(
        select(DecisionRow.spec_hash, DecisionRow.evidence).where(
            DecisionRow.domain == domain, DecisionRow.action == "apply"
        )
    )
    specs = {
        spec_hash: DomainSpec.from_json(evidence["spec"])
        for spec_hash, evidence in rows
        if "spec" in evidence
    }
    return specs | {applied.spec_hash: applied.spec}


def _share(
    specs: Mapping[str, DomainSpec], row: DecisionRow, state: Mapping[str, Any]
) -> float | None:
    spec = specs.get(row.spec_hash)
    stage: int | None = state.get("stage")
    if spec is None or stage is None or stage >= len(spec.stages):
        return None
    return spec.stages[stage]


def _between_ticks(rows: list[DecisionRow]) -> timedelta:
    folded = max(rows, key=lambda row: row.repeats, default=None)
    if folded is None or folded.repeats < 2:
        return BETWEEN_TICKS
    found = (folded.last_at - folded.at) / (folded.repeats - 1)
    return max(found, timedelta(seconds=1))
