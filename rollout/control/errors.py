"""The rules of the verdict *error*: nothing can be said, so nothing widens and people are told.

A missing or contradictory measurement is never read as a good one or a bad one. Where it lasts
longer than `evidence.blind_after` the domain steps down to `evidence.safe_share`, labelled blind:
that is no regression of the policy.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rollout.control.decision import Decision
from rollout.control.facts import percent, span
from rollout.control.tick import Tick

CLOCK_TOLERANCE = timedelta(minutes=1)
"""Two controllers' clocks may differ by this much."""


def broken(tick: Tick) -> Decision | None:
    """The monitor cannot be read, or cannot take the new outcomes."""
    fault = tick.evidence.fault or tick.state.monitor.fault
    if fault is None:
        return None
    return _error(
        tick,
        "broken_monitor",
        f"The monitor is broken: {fault}. Nothing is decided on it; see the controller's log",
        tick.state.error_since,
    )


def clock(tick: Tick) -> Decision | None:
    """The time is before the time of the tick before."""
    last = tick.state.decided_at
    if last is None or tick.now >= last - CLOCK_TOLERANCE:
        return None
    return _error(
        tick,
        "clock",
        f"The clock went back by {span(last - tick.now)}; ages cannot be trusted at this tick. "
        "Check the controllers' clocks",
        tick.state.error_since,
    )


def no_evidence(tick: Tick) -> Decision | None:
    """No comparison for long: never promote, and in time step down. It says nothing of quality."""
    state, limits = tick.state, tick.spec.evidence
    last = max(state.stage_since, state.monitor.last_comparison_at or state.stage_since)
    age = tick.now - last
    if age < limits.stale_after:
        return None
    if tick.evidence.oldest_unseen is None:
        return tick.hold(
            "no_traffic",
            f"No requests for {span(age)}; the stage stays at {tick.share} until new comparisons "
            "come.",
        )
    return _error(
        tick,
        "stale",
        f"No comparison for {span(age)} although requests are answered; nothing is promoted on "
        f"evidence older than {span(limits.stale_after)}. Check the shadow workers",
        max(last, tick.evidence.oldest_unseen),
    )


def misallocated(tick: Tick) -> Decision | None:
    """The arms' counts contradict the stage: what is compared may be no fair sample."""
    arms = tick.state.monitor.arms
    if not arms.mismatch:
        return None
    test = arms.test
    return _error(
        tick,
        "sample_ratio_mismatch",
        f"The arms contradict the stage: {test.early:,} of {test.early + test.control:,} request "
        f"keys are early where {tick.share} calls for {test.expected_early:,.0f}. Outcomes of one "
        "arm are lost or wrongly assigned; check workers and spools",
        tick.state.error_since,
    )


def _error(tick: Tick, rule: str, reason: str, since: datetime | None) -> Decision:
    """Hold and alert, or where it lasted too long, step down to the safe share.

    Args:
        since: Since when nothing can be said; None: since now.
    """
    lasted = tick.now - min(since or tick.now, tick.now)
    safe = tick.spec.stages.index(tick.spec.evidence.safe_share)
    # With the kill switch on nobody is answered early: there is no risk to lower.
    if lasted < tick.spec.evidence.blind_after or tick.state.stage <= safe or tick.evidence.killed:
        return tick.hold(rule, f"{reason}.", incident=rule)
    return tick.act(
        "narrow",
        "blind",
        f"Blind for {span(lasted)}: {reason[0].lower()}{reason[1:]}. Stepped down from "
        f"{tick.share} to the safe share, {percent(tick.spec.evidence.safe_share)} of traffic; "
        "nothing is known to be wrong with the answers.",
        tick.state.entering(tick.spec, safe, tick.now),
        incident="blind",
    )
