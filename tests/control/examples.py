"""A domain to decide about, and the moments of its rollout."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rollout.control.decision import Evidence
from rollout.control.schema import DomainSpec
from rollout.control.state import Comparison, DomainState

MONDAY = datetime(2026, 11, 16, 9, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

TASK = {"labels": "labels/billing.txt", "template": "prompts/billing.j2"}


def billing(**keys: Any) -> DomainSpec:
    return DomainSpec.from_json({"task": TASK} | keys)


def at_stage(spec: DomainSpec, stage: int, since: datetime = MONDAY) -> DomainState:
    return replace(DomainState.start(spec, since, policy_version=1), stage=stage)


def comparisons(
    matched: int, mismatched: int = 0, at: datetime = MONDAY, label: str = "invoice"
) -> list[Comparison]:
    return [Comparison(at, True, True, label)] * matched + [
        Comparison(at, False, True, label)
    ] * mismatched


def seeing(state: DomainState, seen: list[Comparison]) -> DomainState:
    return replace(state, monitor=state.monitor.update(seen, requests=len(seen)))


QUIET = Evidence()
