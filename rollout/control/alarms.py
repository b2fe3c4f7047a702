"""The rules that take early exit back for cause: lost agreement, agreement short of target."""

from __future__ import annotations

from dataclasses import replace

from rollout.control.decision import Decision
from rollout.control.facts import count_of, percent
from rollout.control.schema import DomainSpec
from rollout.control.setbacks import stepped_back
from rollout.control.state import DomainState, Monitor
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
    after, then = stepped_back(tick.spec, tick.state, target, tick.now)
    return tick.act(
        "roll_back",
        rule,
        f"{what}; rolled back from {tick.share} to {percent(tick.spec.stages[target])} of "
        f"traffic, {then}.",
        after,
        incident="rollback",
    )


def _what_was_lost(spec: DomainSpec, monitor: Monitor) -> tuple[str, str] | None:
    """The rule that calls for a rollback, and what happened in words."""
    limit = monitor.floor.tolerated_error
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

    Not where agreement is lost altogether, not where narrowing comes first, and not again for a
    policy already reported as failing.
    """
    return (
        state.mode != "aborted"
        and state.policy_version is not None
        and state.failed_policy != state.policy_version
        and state.monitor.fault is None
        and state.monitor.target.alarmed
        and _tightens(spec, state)
        and _what_was_lost(spec, state.monitor) is None
    )


def _tightens(spec: DomainSpec, state: DomainState) -> bool:
    """Whether the threshold is the lever to be moved down: the first one, or the only one left."""
    levers = spec.levers.down
    return levers[0] == "threshold" or ("threshold" in levers and state.stage == 0)


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
    tightens = _tightens(spec, tick.state)
    if tighter is not None and tightens:
        after, then = stepped_back(spec, tick.state, tick.state.stage, tick.now)
        return tick.act(
            "tighten",
            "short_of_target",
            f"{what}; the threshold is raised to {tighter.threshold:.4g}, whose disagreement "
            f"{count_of(tighter.rows, 'trace')} certify to be at most "
            f"{percent(tighter.certified_risk)}. The new policy version {tighter.policy_version} "
            f"starts with evidence of its own; {then}.",
            replace(after, policy_version=tighter.policy_version),
            threshold=tighter.threshold,
        )
    if tick.state.stage == 0:
        return _failed_in_shadow(tick, what)
    after, then = stepped_back(spec, tick.state, tick.state.stage - 1, tick.now)
    return tick.act(
        "narrow",
        "short_of_target",
        f"{what}{', and no stricter threshold is certified' if tightens else ''}; narrowed from "
        f"{tick.share} to {tick.below} of traffic, {then}.",
        after,
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
