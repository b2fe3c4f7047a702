"""How many early answers to check: more where something stirs, fewer where all is calm.

Neither level nor moment of a change looks at the request, so compared requests stay a fair sample
of the traffic of their time; the rate that was in force is kept with each request.

A shadow goes on where the answer left the batch, so it costs the layers that this answer saved.
Of what is saved a rate r therefore spends the share r, and `shadow.budget` is a bound of the rate
itself; replays from scratch come on top, and are counted as they were measured.
"""

from __future__ import annotations

import math
from datetime import datetime

from rollout.control.certificate import certificate
from rollout.control.decision import Evidence
from rollout.control.facts import span
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState
from rollout.stats.change import ChangeDetector

NEAR = 0.65
"""A detector is near its alarm from this share of the way on, on the logarithmic scale.

Measured by `benchmarks/rollout_outcomes.py`: at 0.5 a sudden break is taken back after 12 h, here
after 19; but a slow decay is then narrowed while still above the floor, for 10 % of the saving.
"""


def shadow_rate(
    spec: DomainSpec, state: DomainState, evidence: Evidence, now: datetime
) -> tuple[float, str]:
    """The shadow rate from now on, and why, in words.

    It rises at once to what is wanted, and falls by half at each tick at most, so that a signal
    that flickers does not make it flicker. It stays within `shadow.min` and `shadow.max`, and
    above `shadow.min` within the budget.
    """
    shadow = spec.shadow
    present = shadow.rate if state.shadow_rate is None else state.shadow_rate
    wanted, reason = _wanted(spec, state, evidence, now)
    rate = max(wanted, present / 2)
    affordable = _affordable(spec, state)
    if rate > affordable:
        rate = affordable
        reason += f", as far as {100 * shadow.budget:g} % of what is saved goes"
    return min(max(rate, shadow.min), shadow.max), reason


def _wanted(
    spec: DomainSpec, state: DomainState, evidence: Evidence, now: datetime
) -> tuple[float, str]:
    monitor, shadow = state.monitor, spec.shadow
    if evidence.moved:
        return shadow.max, f"the traffic changed ({', '.join(evidence.moved)})"
    watching = {"target": monitor.target, "floor": monitor.floor, **monitor.guards}
    near = [name for name, detector in watching.items() if _nearness(detector) >= NEAR]
    if near:
        return shadow.max, f"the detector {near[0]!r} nears its alarm"
    # Before the evidence is stale: where few requests come, the rate of calm times would blind.
    age = now - max(monitor.last_comparison_at or state.stage_since, state.stage_since)
    if evidence.oldest_unseen is not None and age >= spec.evidence.stale_after / 2:
        late = age >= spec.evidence.stale_after * 0.75
        return shadow.max if late else shadow.rate, f"no comparison for {span(age)}"
    if monitor.promotion.count < spec.min_evidence or not certificate(spec, state).enough:
        return shadow.rate, "evidence is thin"
    if monitor.guards:
        # Few comparisons are of a guarded label: at the lowest rate its detector would see nothing.
        return shadow.rate, "all is calm, labels are guarded"
    return shadow.min, "all is calm"


def _nearness(detector: ChangeDetector) -> float:
    """0 at a fresh detector, 1 at its alarm."""
    if detector.alarmed:
        return 1.0
    return math.log(max(detector.statistic, 1.0)) / math.log(detector.mean_time_to_false_alarm)


def _affordable(spec: DomainSpec, state: DomainState) -> float:
    """The rate at which shadows cost `shadow.budget` of what early answers save."""
    budget = spec.shadow.budget
    if state.shadow_layers <= budget * state.saved_layers:
        return budget
    return budget * budget * state.saved_layers / state.shadow_layers
