"""The rule that loosens a threshold, once a bolder one is certified.

The certificate says that the bolder policy's disagreement is at most 1 - target, which is more than
any promotion asks for, so the share stays where it is. The promotion's evidence and the detectors
are the new version's own and start from nothing; what its promotions may still get wrong is what
the version before left. The ladder's evidence stays: the same traces judge every threshold.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rollout.control.certificate import certificate
from rollout.control.decision import Decision
from rollout.control.facts import count_of, percent
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState
from rollout.control.tick import Tick


def wants_looser(spec: DomainSpec, state: DomainState, now: datetime) -> bool:
    """Whether `decide` would use a bolder threshold now, so that it is worth making.

    Only for a policy that is itself known to be on target, and only when the threshold's turn has
    come: where it is the first lever up, else at the last stage.
    """
    monitor, agreement = state.monitor, certificate(spec, state).agreement
    return (
        state.mode == "active"
        and "threshold" in spec.levers.up
        and (spec.levers.up[0] == "threshold" or state.stage + 1 == len(spec.stages))
        and not monitor.alarms
        and (state.cooldown_until is None or now >= state.cooldown_until)
        and now - state.stage_since >= spec.dwell
        and monitor.promotion.count >= spec.min_evidence
        and agreement is not None
        and agreement >= spec.agreement.target
    )


def loosen(tick: Tick) -> Decision | None:
    looser = tick.evidence.looser
    if looser is None or tick.frozen or not wants_looser(tick.spec, tick.state, tick.now):
        return None
    after = tick.state.entering(tick.spec, tick.state.stage, tick.now)
    return tick.act(
        "loosen",
        "loosened",
        f"The threshold is lowered to {looser.threshold:.4g}, whose disagreement "
        f"{count_of(looser.rows, 'trace')} certify to be at most {percent(looser.certified_risk)}; "
        f"the share stays at {tick.share}. The new policy version {looser.policy_version} starts "
        "with evidence of its own.",
        replace(after, policy_version=looser.policy_version),
        threshold=looser.threshold,
    )
