"""The numbers behind a decision, and how they are put into words."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from rollout.control.certificate import certificate
from rollout.control.decision import Evidence
from rollout.control.durations import format_duration
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState, Monitor
from rollout.stats.intervals import confidence_sequence


def facts_of(
    spec: DomainSpec, state: DomainState, evidence: Evidence, now: datetime
) -> dict[str, Any]:
    """What is known about a domain now, as JSON. Unknown is None, never 0 or 1.

    `chance_wrong` is the level of this promotion's test: the chance that a policy whose agreement
    is not above the floor is promoted here, at most. `error_budget` is how alpha is shared: spent
    on all of this policy's tests so far, the running one included, and left for others.
    `agreement` is what is held against target and floor: less the severities of mismatches, or
    relative to the noise ceiling, where the spec says so. `interval` is of the plain one.
    """
    share = state.stage_weight(spec)
    monitor, test = state.monitor, state.monitor.promotion
    budget, proof = state.error_budget(spec), certificate(spec, state)
    lower, upper = confidence_sequence(test.count, test.mismatches, spec.agreement.alpha)
    last = monitor.last_comparison_at
    at_top = state.stage + 1 >= len(spec.stages)
    return {
        "stage": share,
        "next_stage": None if at_top else spec.stages[state.stage + 1],
        "policy_version": state.policy_version,
        "stage_age_s": max((now - state.stage_since).total_seconds(), 0.0),
        "requests": monitor.requests,
        "comparisons": test.count,
        "mismatches": test.mismatches,
        "agreement": number(proof.agreement),
        "interval": [lower, upper] if test.count else None,
        "exited": monitor.exited,
        "exit_agreement": 1 - monitor.exited_mismatches / monitor.exited
        if monitor.exited
        else None,
        "e_value": number(proof.e_value),
        "needed_e_value": proof.needed,
        "comparisons_needed": proof.more,
        "chance_wrong": budget.level,
        "error_budget": {"alpha": budget.alpha, "spent": budget.spent, "left": budget.left},
        "ceiling": _ceiling(monitor, spec.agreement.alpha) if monitor.relative else None,
        "alarms": list(monitor.alarms),
        "target_statistic": number(monitor.target.statistic),
        "floor_statistic": number(monitor.floor.statistic),
        "likely_error": monitor.target.likely_error if monitor.target.alarmed else None,
        "setbacks": [at.isoformat() for at in state.setbacks if now - at < spec.rollback.per],
        "arms": {
            "early": monitor.arms.test.early,
            "control": monitor.arms.test.control,
            "expected_early": monitor.arms.test.expected_early,
        },
        "signals": [
            {"name": signal.name, "moved": signal.moved, "statistic": number(signal.statistic)}
            for signal in evidence.signals
        ],
        "last_comparison_at": None if last is None else last.isoformat(),
        "last_tick_at": None if state.decided_at is None else state.decided_at.isoformat(),
        "new_requests": evidence.requests,
        "new_comparisons": evidence.comparisons,
        "not_comparable": evidence.not_comparable,
        "killed": evidence.killed,
        "shadow_rate": spec.shadow.rate if state.shadow_rate is None else state.shadow_rate,
        "shadow_cost": state.shadow_layers / state.saved_layers if state.saved_layers else None,
        "bolder_certified": None if state.ladder is None else state.ladder.test.threshold,
    }


def _ceiling(monitor: Monitor, alpha: float) -> dict[str, Any]:
    lower, upper = monitor.ceiling.ceiling(alpha)
    return {"pairs": monitor.full_count, "mismatches": monitor.full_mismatches} | {
        "interval": [lower, upper] if monitor.full_count else None
    }


def number(value: float | None) -> float | None:
    """None for what JSON has no number for."""
    return value if value is not None and math.isfinite(value) else None


def percent(share: float) -> str:
    """
    >>> percent(0.05), percent(0.005), percent(1.0)
    ('5 %', '0.5 %', '100 %')
    """
    return f"{100 * share:.3g} %"


def count_of(count: int, noun: str) -> str:
    """
    >>> count_of(1, "comparison"), count_of(1200, "comparison")
    ('1 comparison', '1,200 comparisons')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def span(duration: timedelta) -> str:
    """A duration to the minute, or to the second below one.

    >>> span(timedelta(minutes=90, seconds=7)), span(timedelta(seconds=7.5))
    ('1h30m', '7s')
    """
    if duration >= timedelta(minutes=1):
        duration -= duration % timedelta(minutes=1)
    return format_duration(max(duration, timedelta(0)))


def moment(at: datetime) -> str:
    """A moment to the minute, with its zone.

    >>> from datetime import UTC
    >>> moment(datetime(2026, 11, 16, 9, 30, tzinfo=UTC))
    '2026-11-16 09:30 UTC'
    """
    return f"{at:%Y-%m-%d %H:%M} {at.tzname()}"
