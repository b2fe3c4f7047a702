"""The numbers behind a decision, and how they are put into words."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from rollout.control.decision import Evidence
from rollout.control.durations import format_duration
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState
from rollout.stats.intervals import confidence_sequence
from rollout.stats.promotion import expected_more


def facts_of(
    spec: DomainSpec, state: DomainState, evidence: Evidence, now: datetime
) -> dict[str, Any]:
    """What is known about a domain now, as JSON. Unknown is None, never 0 or 1.

    `chance_wrong` is the level of this promotion's test: the chance that a policy whose agreement
    is not above the floor is promoted here, at most.
    """
    monitor, test = state.monitor, state.monitor.promotion
    agreement = test.agreement
    lower, upper = confidence_sequence(test.count, test.mismatches, spec.agreement.alpha)
    last = monitor.last_comparison_at
    at_top = state.stage + 1 >= len(spec.stages)
    return {
        "stage": state.stage_weight(spec),
        "next_stage": None if at_top else spec.stages[state.stage + 1],
        "policy_version": state.policy_version,
        "stage_age_s": (now - state.stage_since).total_seconds(),
        "requests": monitor.requests,
        "comparisons": test.count,
        "mismatches": test.mismatches,
        "agreement": agreement,
        "interval": [lower, upper] if test.count else None,
        "exited": monitor.exited,
        "exit_agreement": 1 - monitor.exited_mismatches / monitor.exited
        if monitor.exited
        else None,
        "e_value": test.e_value,
        "needed_e_value": 1.0 / spec.promotion_alpha,
        "chance_wrong": spec.promotion_alpha,
        "comparisons_needed": None
        if agreement is None
        else expected_more(test, spec.promotion_alpha, agreement),
        "alarms": list(monitor.alarms),
        "target_statistic": monitor.target.statistic,
        "floor_statistic": monitor.floor.statistic,
        "likely_error": monitor.target.likely_error if monitor.target.alarmed else None,
        "last_comparison_at": None if last is None else last.isoformat(),
        "new_requests": evidence.requests,
        "new_comparisons": evidence.comparisons,
        "not_comparable": evidence.not_comparable,
        "killed": evidence.killed,
    }


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
