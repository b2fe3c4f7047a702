"""The controller's decision: a pure function, a list of rules, the first that applies decides.

Alarms stand before everything that waits, so that a rollback stays live while a domain is paused,
frozen, cooling down or waiting for a person. Promotion stands last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rollout.control.decision import Action, Decision, Evidence
from rollout.control.facts import count_of, facts_of, moment, percent, span
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState, tolerated


def decide(spec: DomainSpec, state: DomainState, evidence: Evidence, now: datetime) -> Decision:
    """What to do with a domain now.

    Args:
        spec: The domain's spec.
        state: The state with all new comparisons folded into its monitor.
        evidence: What the monitor does not know.
        now: The time, aware.

    Raises:
        RolloutError: where the state's stage is not among the spec's stages.
    """
    tick = _Tick(spec, state, evidence, now, facts_of(spec, state, evidence, now))
    for rule in _RULES:
        decision = rule(tick)
        if decision is not None:
            return decision
    return _promote(tick)


@dataclass(frozen=True)
class _Tick:
    spec: DomainSpec
    state: DomainState
    evidence: Evidence
    now: datetime
    facts: dict[str, Any]

    def hold(self, rule: str, reason: str) -> Decision:
        return self.act("hold", rule, reason, self.state)

    def act(
        self,
        action: Action,
        rule: str,
        reason: str,
        after: DomainState,
        incident: str | None = None,
        threshold: float | None = None,
    ) -> Decision:
        return Decision(action, rule, reason, after, self.facts, incident, threshold)

    @property
    def share(self) -> str:
        return percent(self.state.stage_weight(self.spec))

    @property
    def below(self) -> str:
        return percent(self.spec.stages[max(self.state.stage - 1, 0)])

    @property
    def seen(self) -> str:
        """What was compared since stage entry, in words."""
        test = self.state.monitor.promotion
        if test.agreement is None:
            return "no comparisons yet"
        return f"{count_of(test.count, 'comparison')} so far, agreement {test.agreement:.3f}"


def _not_running(tick: _Tick) -> Decision | None:
    if tick.state.mode == "aborted":
        return tick.hold(
            "aborted", "A person aborted this rollout; `rollout resume` starts it again from 0 %."
        )
    if tick.state.policy_version is None:
        return tick.hold(
            "no_policy", "There is no exit policy yet; `rollout calibrate` makes the first one."
        )
    return None


def _lost(tick: _Tick) -> Decision | None:
    """Agreement fell below the floor, or a guarded label's below its guard."""
    spec, monitor = tick.spec, tick.state.monitor
    limit = tolerated(spec.agreement.floor)
    if monitor.floor.alarmed:
        rule = "floor_alarm"
        what = (
            f"Agreement fell below the floor {spec.agreement.floor:g}: the error rate is now "
            f"likely near {percent(monitor.floor.likely_error)} (at most {percent(limit)} is "
            "acceptable)"
        )
    elif monitor.target.alarmed and monitor.target.likely_error > limit:
        rule = "target_alarm"
        what = (
            f"Agreement dropped: the error rate is now likely near "
            f"{percent(monitor.target.likely_error)}, above the {percent(limit)} that the floor "
            f"{spec.agreement.floor:g} allows"
        )
    else:
        alarmed = [label for label, guard in monitor.guards.items() if guard.alarmed]
        if not alarmed:
            return None
        guard = monitor.guards[alarmed[0]]
        rule = "guard_alarm"
        what = (
            f"Early answers for the guarded label {alarmed[0]!r} are wrong too often: likely near "
            f"{percent(guard.likely_error)} where {percent(guard.tolerated_error)} is tolerated"
        )
    if tick.state.stage == 0:
        return _failed_in_shadow(tick, what)
    target = spec.stages.index(spec.rollback.to)
    if target >= tick.state.stage:
        target = 0
    until = tick.now + spec.rollback.cooldown
    return tick.act(
        "roll_back",
        rule,
        f"{what}; rolled back from {tick.share} to {percent(spec.stages[target])} of traffic, "
        f"no promotion before {moment(until)}.",
        replace(tick.state.entering(spec, target, tick.now), cooldown_until=until),
        incident="rollback",
    )


def _short_of_target(tick: _Tick) -> Decision | None:
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


def _failed_in_shadow(tick: _Tick, what: str) -> Decision:
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


def _no_evidence(tick: _Tick) -> Decision | None:
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


def _waiting(tick: _Tick) -> Decision | None:
    """Somebody or something says not now."""
    state, spec = tick.state, tick.spec
    if state.mode == "paused":
        return tick.hold(
            "paused",
            f"A person paused this rollout at {tick.share}; rollback stays live, "
            "`rollout resume` goes on.",
        )
    if tick.evidence.killed:
        return tick.hold(
            "killed",
            "The kill switch is on: everybody gets full depth; `rollout kill-switch off` goes on.",
        )
    if state.cooldown_until is not None and tick.now < state.cooldown_until:
        return tick.hold(
            "cooldown",
            f"Cooling down after a rollback for another {span(state.cooldown_until - tick.now)}, "
            f"until {moment(state.cooldown_until)}.",
        )
    if state.stage + 1 == len(spec.stages):
        return tick.hold("top_stage", f"At the last stage, {tick.share} of traffic; {tick.seen}.")
    dwelt = tick.now - state.stage_since
    if dwelt < spec.dwell:
        return tick.hold(
            "dwell",
            f"At {tick.share} for {span(dwelt)} of at least {span(spec.dwell)}; {tick.seen}.",
        )
    return None


def _thin(tick: _Tick) -> Decision | None:
    """The comparisons do not carry a promotion yet."""
    spec, test = tick.spec, tick.state.monitor.promotion
    missing = spec.min_evidence - test.count
    if missing > 0:
        return tick.hold(
            "min_evidence",
            f"Needs {count_of(missing, 'more comparison')}: {tick.seen}, at least "
            f"{spec.min_evidence:,} at each stage.",
        )
    agreement, alpha = tick.facts["agreement"], spec.promotion_alpha
    if test.e_value < 1.0 / alpha:
        more = tick.facts["comparisons_needed"]
        need = (
            f"Agreement is not above the floor so far: {tick.seen}"
            if more is None
            else f"Needs about {count_of(more, 'more comparison')}: {tick.seen}"
        )
        return tick.hold(
            "thin_evidence",
            f"{need}; certified above {spec.agreement.floor:g} needs e >= {1 / alpha:.4g}, "
            f"now {test.e_value:.3g}.",
        )
    if agreement < spec.agreement.target:
        return tick.hold(
            "below_target",
            f"Certified above the floor {spec.agreement.floor:g}, but not on target: {tick.seen}; "
            f"goes on once it is at least {spec.agreement.target:g}, or `rollout calibrate` with "
            "stricter thresholds.",
        )
    return None


def _gate(tick: _Tick) -> Decision | None:
    """The evidence carries a promotion; the calendar or a person must let it through."""
    spec, after = tick.spec, tick.state.stage + 1
    for window in spec.freeze_windows:
        if window.holds(tick.now):
            return tick.hold(
                "freeze",
                f"Ready for {percent(spec.stages[after])}, but in the freeze window {window.text}; "
                f"goes on when it ends. {_certified(tick)}",
            )
    if spec.stages[after] in spec.approval.before and tick.state.approved_stage != after:
        return tick.hold(
            "approval",
            f"Ready for {percent(spec.stages[after])}; a person must approve it with "
            f"`rollout promote`. {_certified(tick)}",
        )
    return None


def _promote(tick: _Tick) -> Decision:
    after = tick.state.stage + 1
    return tick.act(
        "promote",
        "certified",
        f"Promoted from {tick.share} to {percent(tick.spec.stages[after])} of traffic. "
        f"{_certified(tick)}",
        replace(
            tick.state,
            stage=after,
            stage_since=tick.now,
            approved_stage=None,
            monitor=tick.state.monitor.at_next_stage(),
        ),
    )


def _certified(tick: _Tick) -> str:
    test = tick.state.monitor.promotion
    return (
        f"Agreement is {tick.facts['agreement']:.3f} over {count_of(test.count, 'comparison')}, "
        f"certified above {tick.spec.agreement.floor:g}; chance that this promotion is wrong: "
        f"at most {percent(tick.spec.promotion_alpha)}."
    )


_RULES: tuple[Callable[[_Tick], Decision | None], ...] = (
    _not_running,
    _lost,
    _short_of_target,
    _no_evidence,
    _waiting,
    _thin,
    _gate,
)
