"""The rules that a promotion must pass, and the promotion."""

from __future__ import annotations

from rollout.control.decision import Decision
from rollout.control.facts import count_of, moment, percent, span
from rollout.control.tick import Tick


def waiting(tick: Tick) -> Decision | None:
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
    if state.mode == "locked":
        return tick.hold(
            "locked",
            f"Locked at {tick.share} after {count_of(len(state.setbacks), 'setback')} within "
            f"{span(spec.rollback.per)}: a person must look; `rollout resume` goes on, rollback "
            "stays live.",
        )
    if state.cooldown_until is not None and tick.now < state.cooldown_until:
        return tick.hold(
            "cooldown",
            f"Cooling down after a setback for another {span(state.cooldown_until - tick.now)}, "
            f"until {moment(state.cooldown_until)}.",
        )
    if tick.evidence.moved and spec.evidence.signals == "hold":
        return tick.hold(
            "signal",
            f"The traffic changed ({', '.join(tick.evidence.moved)}); nothing is widened until it "
            "is as before, or `rollout calibrate` makes a policy for it.",
        )
    return None


def dwelling(tick: Tick) -> Decision | None:
    """At the last stage, or not long enough at this one."""
    state, spec = tick.state, tick.spec
    if state.stage + 1 == len(spec.stages):
        return tick.hold("top_stage", f"At the last stage, {tick.share} of traffic; {tick.seen}.")
    dwelt = tick.now - state.stage_since
    if dwelt < spec.dwell:
        return tick.hold(
            "dwell",
            f"At {tick.share} for {span(dwelt)} of at least {span(spec.dwell)}; {tick.seen}.",
        )
    return None


def thin(tick: Tick) -> Decision | None:
    """The comparisons do not carry a promotion yet."""
    spec, monitor = tick.spec, tick.state.monitor
    missing = spec.min_evidence - monitor.promotion.count
    if missing > 0:
        return tick.hold(
            "min_evidence",
            f"Needs {count_of(missing, 'more comparison')}: {tick.seen}, at least "
            f"{spec.min_evidence:,} at each stage.",
        )
    if tick.facts["agreement"] is None:
        return tick.hold(
            "no_ceiling",
            "Agreement is read relative to how often the full model agrees with itself, and no two "
            "full answers were compared yet; shadow.replay_share draws them.",
        )
    e_value, needed = tick.facts["e_value"], tick.facts["needed_e_value"]
    if e_value < needed:
        more = tick.facts["comparisons_needed"]
        need = (
            f"Agreement is not above the floor so far: {tick.seen}"
            if more is None
            else f"Needs about {count_of(more, 'more comparison')}: {tick.seen}"
        )
        return tick.hold(
            "thin_evidence",
            f"{need}; certified above {spec.agreement.floor:g} needs e >= {needed:.4g}, "
            f"now {e_value:.3g}.",
        )
    if tick.facts["agreement"] < spec.agreement.target:
        return tick.hold(
            "below_target",
            f"Certified above the floor {spec.agreement.floor:g}, but not on target: {tick.seen}; "
            f"goes on once it is at least {spec.agreement.target:g}, or `rollout calibrate` with "
            "stricter thresholds.",
        )
    return None


def gate(tick: Tick) -> Decision | None:
    """The evidence carries a promotion; the calendar or a person must let it through."""
    spec, after = tick.spec, tick.state.stage + 1
    window = tick.frozen
    if window is not None:
        return tick.hold(
            "freeze",
            f"Ready for {percent(spec.stages[after])}, but in the freeze window {window}; "
            f"goes on when it ends. {_certified(tick)}",
        )
    if spec.stages[after] in spec.approval.before and tick.state.approved_stage != after:
        return tick.hold(
            "approval",
            f"Ready for {percent(spec.stages[after])}; a person must approve it with "
            f"`rollout promote`. {_certified(tick)}",
        )
    return None


def promote(tick: Tick) -> Decision:
    return tick.act(
        "promote",
        "certified",
        f"Promoted from {tick.share} to {percent(tick.spec.stages[tick.state.stage + 1])} of "
        f"traffic. {_certified(tick)}",
        tick.state.promoted(tick.spec, tick.now),
    )


def _certified(tick: Tick) -> str:
    return (
        f"Agreement is {tick.facts['agreement']:.3f} over "
        f"{count_of(tick.state.monitor.promotion.count, 'comparison')}, certified above "
        f"{tick.spec.agreement.floor:g}; chance that this promotion is wrong: at most "
        f"{percent(tick.facts['chance_wrong'])}."
    )
