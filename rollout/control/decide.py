"""The controller's decision: a pure function, a list of rules, the first that applies decides.

A monitor that cannot be read decides nothing. Alarms stand before everything that waits, so that a
rollback stays live while a domain is paused, locked, frozen, cooling down or waiting for a person.
Promotion stands last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from rollout.control.alarms import lost, short_of_target
from rollout.control.decision import Decision, Evidence
from rollout.control.errors import broken, clock, misallocated, no_evidence
from rollout.control.facts import facts_of
from rollout.control.gates import dwelling, gate, promote, thin, waiting
from rollout.control.loosening import loosen
from rollout.control.schema import DomainSpec
from rollout.control.shadow_rate import shadow_rate
from rollout.control.state import DomainState
from rollout.control.tick import Tick


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
    tick = Tick(spec, state, evidence, now, facts_of(spec, state, evidence, now))
    verdicts = (rule(tick) for rule in _RULES)
    decision = next((found for found in verdicts if found is not None), None) or promote(tick)
    return _noted(tick, decision)


def _noted(tick: Tick, decision: Decision) -> Decision:
    """The decision, with what every tick leaves behind: its time, the error's, the shadow rate."""
    after = decision.state_after
    rate, reason = shadow_rate(tick.spec, after, tick.evidence, tick.now)
    since = min(after.error_since or tick.now, tick.now) if decision.verdict == "error" else None
    return replace(
        decision,
        state_after=replace(after, decided_at=tick.now, error_since=since, shadow_rate=rate),
        facts=decision.facts | {"shadow_rate": rate, "shadow_reason": reason},
    )


def not_running(tick: Tick) -> Decision | None:
    if tick.state.mode == "aborted":
        return tick.hold(
            "aborted", "A person aborted this rollout; `rollout resume` starts it again from 0 %."
        )
    if tick.state.policy_version is None:
        return tick.hold(
            "no_policy", "There is no exit policy yet; `rollout calibrate` makes the first one."
        )
    return None


_RULES: tuple[Callable[[Tick], Decision | None], ...] = (
    not_running,
    broken,
    lost,
    short_of_target,
    clock,
    no_evidence,
    misallocated,
    waiting,
    loosen,
    dwelling,
    thin,
    gate,
)
