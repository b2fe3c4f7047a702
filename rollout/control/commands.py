"""What people do to a rollout, and what a new policy or spec does to it: pure, like `decide`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Literal

from rollout.control.decision import Decision, Evidence
from rollout.control.facts import facts_of, moment, percent
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState
from rollout.values import RolloutError

Verb = Literal["pause", "resume", "promote", "abort"]


def command(
    spec: DomainSpec, state: DomainState, verb: Verb, actor: str, why: str, now: datetime
) -> Decision:
    """A person's decision.

    pause: nothing moves up; rollback stays live. resume: goes on, after an abort from stage 0,
    after a lock without cool-down and with a new count of setbacks.
    promote: approves the next stage where it waits for that, else enters it now, past dwell,
    evidence, pause and freeze. abort: everybody to full depth until resume.

    Raises:
        RolloutError: where the command makes no sense now, with what would.
    """
    after, action, what = state, verb, ""
    if verb == "pause":
        if state.mode != "active":
            raise RolloutError(f"cannot pause: the rollout is {state.mode} already")
        after = replace(state, mode="paused")
        what = f"Paused at {percent(state.stage_weight(spec))} of traffic; rollback stays live"
    elif verb == "resume":
        if state.mode == "active":
            raise RolloutError("cannot resume: the rollout is not paused, locked or aborted")
        after = replace(state, mode="active")
        if state.mode == "locked":
            after = replace(after, setbacks=(), cooldown_until=None)
        what = f"Resumed at {percent(state.stage_weight(spec))} of traffic"
    elif verb == "abort":
        if state.mode == "aborted":
            raise RolloutError("cannot abort: the rollout is aborted already")
        after = replace(state.entering(spec, 0, now), mode="aborted")
        what = (
            f"Aborted at {percent(state.stage_weight(spec))} of traffic: everybody gets full "
            "depth until `rollout resume`"
        )
    else:
        return _promote(spec, state, actor, why, now)
    return _decision(spec, state, action, verb, what, after, actor, why, now)


def _promote(spec: DomainSpec, state: DomainState, actor: str, why: str, now: datetime) -> Decision:
    _refuse_promotion(spec, state, now)
    stage = state.stage + 1
    share = percent(spec.stages[stage])
    if spec.stages[stage] in spec.approval.before and state.approved_stage != stage:
        what = f"Approved {share} of traffic; entered once the evidence certifies it"
        after = replace(state, approved_stage=stage)
        return _decision(spec, state, "approve", "promote", what, after, actor, why, now)
    what = (
        f"Forced from {percent(state.stage_weight(spec))} to {share} of traffic, without waiting "
        "for the evidence"
    )
    after = state.promoted(spec, now)
    return _decision(spec, state, "promote", "promote", what, after, actor, why, now)


def _refuse_promotion(spec: DomainSpec, state: DomainState, now: datetime) -> None:
    if state.policy_version is None:
        raise RolloutError(
            "cannot promote: there is no exit policy yet; run `rollout calibrate` first"
        )
    if state.mode == "aborted":
        raise RolloutError("cannot promote: the rollout is aborted; run `rollout resume` first")
    if state.mode == "locked":
        raise RolloutError(
            f"cannot promote: locked after {len(state.setbacks)} setbacks; look at "
            "`rollout history`, then run `rollout resume`"
        )
    if state.monitor.alarms:
        raise RolloutError(
            f"cannot promote: alarm of {', '.join(state.monitor.alarms)}; the controller acts on "
            "it at its next tick, and at stage 0 a new policy is needed (`rollout calibrate`)"
        )
    if state.cooldown_until is not None and now < state.cooldown_until:
        raise RolloutError(
            f"cannot promote: cooling down after a setback until {moment(state.cooldown_until)}; "
            "wait, or apply a shorter rollback.cooldown before the next one"
        )
    if state.stage + 1 >= len(spec.stages):
        raise RolloutError(
            f"cannot promote: {percent(state.stage_weight(spec))} is the last stage; add one to "
            "`stages` to go further"
        )


def _decision(
    spec: DomainSpec,
    state: DomainState,
    action: Literal["pause", "resume", "promote", "abort", "approve"],
    verb: Verb,
    what: str,
    after: DomainState,
    actor: str,
    why: str,
    now: datetime,
) -> Decision:
    facts = facts_of(spec, state, Evidence(), now) | {"actor": actor, "why": why}
    reason = f"{what} (by {actor}{f': {why}' if why else ''})."
    return Decision(action, f"command_{verb}", reason, after, facts)


def policy_changed(
    spec: DomainSpec,
    state: DomainState,
    policy_version: int,
    now: datetime,
    *,
    tightens: bool = False,
) -> DomainState:
    """The state under a new policy: its own evidence from nothing.

    It starts shadow-only, at stage 0, unless it `tightens` the live policy (same heads and
    layers, higher thresholds): then the stage stays, since it exits less often than what is served
    already, and so does what is left of its error budget. Mode and cool-down stay; an approval was
    for the policy before and is dropped. What was seen of the noise ceiling may have been another
    model's, and is dropped unless it tightens.
    """
    after = state.entering(spec, state.stage if tightens else 0, now)
    return replace(after, policy_version=policy_version, budget=after.budget if tightens else None)


def spec_changed(
    old: DomainSpec, new: DomainSpec, state: DomainState, now: datetime
) -> DomainState:
    """The state under a changed spec: never a larger share than before.

    The stage becomes the largest new stage that does not exceed the old share. Evidence starts
    anew where what it is measured against changed: agreement, guards, the detectors' patience, or
    the stages that alpha is shared over.
    """
    share = state.stage_weight(old)
    stage = max(index for index, weight in enumerate(new.stages) if weight <= share)
    measures = [
        (spec.agreement, spec.guards, spec.evidence.mean_time_to_false_alarm, spec.stages)
        for spec in (old, new)
    ]
    if measures[0] != measures[1]:
        there = replace(state, stage=stage, budget=None, ladder=None)
        return replace(there.entering(new, stage, now), budget=None)
    return state
