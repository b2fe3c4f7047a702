"""The controller's decision: a pure function, a list of rules, the first that applies decides.

Alarms stand before everything that waits, so that a rollback stays live while a domain is paused,
frozen, cooling down or waiting for a person. Promotion stands last.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from rollout.control.alarms import lost, no_evidence, short_of_target
from rollout.control.decision import Decision, Evidence
from rollout.control.facts import facts_of
from rollout.control.gates import gate, promote, thin, waiting
from rollout.control.schema import DomainSpec
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
    for rule in _RULES:
        decision = rule(tick)
        if decision is not None:
            return decision
    return promote(tick)


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
    lost,
    short_of_target,
    no_evidence,
    waiting,
    thin,
    gate,
)
