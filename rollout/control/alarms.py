"""The rules that take early exit back: lost agreement, agreement short of target, blindness."""

from __future__ import annotations

from dataclasses import replace

from rollout.control.decision import Decision
from rollout.control.facts import count_of, moment, percent, span
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState, Monitor, tolerated
from rollout.control.tick import Tick


def lost(tick: Tick) -> Decision | None:
    """Agreement fell below the floor, or a guarded label's below its guard."""
    found = _what_was_lost(tick.spec, tick.state.monitor)
    if found is None:
        return None
    rule, what = found
    if tick.state.stage == 0:
        return _failed_in_shadow(tick, what)
    target = tick.spec.stages.index(tick.spec.rollback.to)
    if target >= tick.state.stage:
        target = 0
    until = tick.now + tick.spec.rollback.cooldown
    return tick.act(
        "roll_back",
        rule,
        f"{what}; rolled back from {tick.share} to {percent(tick.spec.stages[target])} of "
        f"traffic, no promotion before {moment(until)}.",
        replace(tick.state.entering(tick.spec, target, tick.now), cooldown_until=until),
        incident="rollback",
    )


def _what_was_lost(spec: DomainSpec, monitor: Monitor) -> tuple[str, str] | None:
    """The rule that calls for a rollback, and what happened in words."""
    limit = tolerated(spec.agreement.floor)
    if monitor.floor.alarmed:
        return "floor_alarm", (
            f"Agreement fell below the floor {spec.agreement.floor:g}: the error rate is now "
            f"likely near {percent(monitor.floor.likely_error)}, {percent(limit)} is acceptable"
        )
    if monitor.target.alarmed and monitor.target.likely_error > limit:
        return "target_alarm", (
            "Agreement dropped: the error rate is now likely near "
            f"{percent(monitor.target.likely_error)}, above the {percent(limit)} that the floor "
            f"{spec.agreement.floor:g} allows"
        )
    for label, guard in monitor.guards.items():
        if guard.alarmed:
            return "guard_alarm", (
                f"Early answers for the guarded label {label!r} are wrong too often: likely near "
                f"{percent(guard.likely_error)} where {percent(guard.tolerated_error)} is "
                "tolerated"
            )
    return None


def wants_tighter(spec: DomainSpec, state: DomainState) -> bool:
    """Whether `decide` would use a stricter threshold now: only then is its search worth the cost.

    Not where agreement is lost altogether, and not again for a policy already reported as failing.
    """
    return (
        state.mode != "aborted"
        and state.policy_version is not None
        and state.failed_policy != state.policy_version
        and state.monitor.target.alarmed
        and _what_was_lost(spec, state.monitor) is None
    )


def short_of_target(tick: Tick) -> Decision | None:
    """Agreement is below the target but above the floor."""
    spec, monitor, tighter = tick.spec, tick.state.monitor, tick.evidence.tighter
    if not monitor.target.alarmed:
        return None
    what = (
        f"Agreement is short of the target {spec.agreement.target:g} but above the floor "
        f"{spec.agreement.floor:g}: the error rate is likely near "
        f"{percent(monitor.target.likely_error)}"
    )
    if tighter is not None:
        after = tick.state.entering(spec, tick.state.stage, tick.now)
        return tick.act(
            "tighten",
            "short_of_target",
            f"{what}; the threshold is raised to {tighter.threshold:.4g}, whose disagreement "
            f"{count_of(tighter.rows, 'trace')} certify to be at most "
            f"{percent(tighter.certified_risk)}. The new policy version {tighter.policy_version} "
            "starts with evidence of its own.",
            replace(after, policy_version=tighter.policy_version),
            threshold=tighter.threshold,
        )
    if tick.state.stage == 0:
        return _failed_in_shadow(tick, what)
    return tick.act(
        "narrow",
        "short_of_target",
        f"{what}, and no stricter threshold is certified; narrowed from {tick.share} to "
        f"{tick.below} of traffic.",
        tick.state.entering(spec, tick.state.stage - 1, tick.now),
        incident="narrowing",
    )


def _failed_in_shadow(tick: Tick, what: str) -> Decision:
    """Nobody is served early, so there is nothing to narrow: say it once and wait."""
    version = tick.state.policy_version
    return tick.act(
        "hold",
        "fails_in_shadow",
        f"{what}. Policy version {version} fails in shadow and serves nobody; "
        "`rollout calibrate` makes a new one.",
        replace(tick.state, failed_policy=version),
        incident=None if tick.state.failed_policy == version else "fails_in_shadow",
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
    unseen = tick.now - max(last, tick.evidence.oldest_unseen)
    # With the kill switch on, or at stage 0, nobody is answered early: there is no risk to lower.
    if unseen >= limits.blind_after and state.stage > 0 and not tick.evidence.killed:
        return tick.act(
            "narrow",
            "blind",
            f"Blind: requests were answered for {span(unseen)} without one comparison; narrowed "
            f"from {tick.share} to {tick.below} of traffic. Nothing is known to be wrong with the "
            "answers; check the shadow workers.",
            state.entering(tick.spec, state.stage - 1, tick.now),
            incident="blind",
        )
    return tick.hold(
        "stale",
        f"No comparison for {span(age)} although requests are answered; nothing is promoted on "
        f"evidence older than {span(limits.stale_after)}. Check the shadow workers.",
    )
