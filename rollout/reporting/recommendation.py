"""One sentence for management: widen, hold or withdraw, and the evidence for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rollout.control.schema import DomainSpec
from rollout.reporting.history import Decision, StageSpan
from rollout.reporting.wording import moment, percent

if TYPE_CHECKING:
    from rollout.reporting.figures import Summary

Verdict = Literal["widen", "hold", "withdraw"]


@dataclass(frozen=True)
class Recommendation:
    """`verdict` and the sentence that gives its evidence."""

    verdict: Verdict
    sentence: str


def recommend(
    summary: Summary,
    stages: Sequence[StageSpan],
    decisions: Sequence[Decision],
    domain_spec: DomainSpec,
) -> Recommendation:
    """Judge a week by its own rows. Without comparisons it holds: unknown is not good."""
    floor, target = domain_spec.agreement.floor, domain_spec.agreement.target
    if not summary.requests:
        return Recommendation("hold", "there were no requests, so nothing was learned.")
    policy = summary.agreement.policy
    if policy is None:
        return Recommendation(
            "hold",
            f"no comparisons yet: none of {summary.requests:,} requests was compared "
            "with the full model.",
        )
    evidence = (
        f"{percent(policy.value)} of {policy.compared:,} comparisons agreed "
        f"(at least {percent(policy.lower)}, "
        f"with {percent(1 - domain_spec.agreement.alpha)} confidence)"
    )
    stage = stages[-1].stage if stages else 0
    steps_back = [step for step in decisions if step.changed_stage and not step.widened]
    if steps_back and stage == steps_back[-1].stage_after:
        step = steps_back[-1]
        return Recommendation(
            "hold",
            f"{step.actor} stepped back on {moment(step.at)} UTC ({step.reason.rstrip('.')}); "
            "find what changed in the traffic before widening again.",
        )
    weight = domain_spec.stages[stage] if stage < len(domain_spec.stages) else 0.0
    if policy.upper < floor:
        return Recommendation(
            "withdraw", f"{evidence}, surely below the floor of {percent(floor)}."
        )
    if policy.lower < floor:
        return Recommendation(
            "hold", f"{evidence}; the floor of {percent(floor)} is not certified yet."
        )
    net = summary.savings.layers.net_share or 0.0
    if weight >= 1.0:
        return Recommendation(
            "hold", f"all traffic is served early; {evidence}, {percent(net)} of layers saved net."
        )
    if policy.value < target:
        return Recommendation(
            "hold", f"{evidence}, above the floor but below the target of {percent(target)}."
        )
    return Recommendation(
        "widen",
        f"{evidence}, above the floor of {percent(floor)} and the target of {percent(target)}, "
        f"with early exit on {percent(weight)} of traffic.",
    )
