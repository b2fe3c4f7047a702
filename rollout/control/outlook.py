"""Why a domain is not further yet, what is missing, and what would happen then."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rollout.control.decide import decide
from rollout.control.decision import Decision, Evidence
from rollout.control.facts import count_of, percent, span
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState


@dataclass(frozen=True)
class Outlook:
    """What stands between a domain and its next stage.

    Attributes:
        decision: What the controller would decide now; nothing is done.
        missing: About how many more comparisons the promotion takes; 0 where they are there; None
            where it is out of reach as things go, or there is no next stage.
        per_hour: Comparisons an hour, lately; None where there were none.
        wait: About how long until the evidence and every span to be waited for are there; None
            where that cannot be told.
        then: What happens after that, in words.
    """

    decision: Decision
    missing: int | None
    per_hour: float | None
    wait: timedelta | None
    then: str

    @property
    def needs(self) -> str:
        """Such as: about 190 more comparisons, about 3h at the present rate (63 an hour)."""
        if self.missing is None:
            return self.decision.reason
        if not self.missing:
            return "no more comparisons" + (f", but {span(self.wait)} more" if self.wait else "")
        count = f"about {count_of(self.missing, 'more comparison')}"
        if not self.per_hour:
            return f"{count}; none came lately, so nobody can say how long that takes"
        takes = timedelta(hours=self.missing / self.per_hour)
        needs = f"{count}, about {span(takes)} at the present rate ({self.per_hour:.3g} an hour)"
        if self.wait is not None and self.wait > takes:
            needs += f"; {span(self.wait)} must pass"
        return needs

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.decision.verdict,
            "action": self.decision.action,
            "rule": self.decision.rule,
            "reason": self.decision.reason,
            "missing": self.missing,
            "per_hour": self.per_hour,
            "wait_s": None if self.wait is None else self.wait.total_seconds(),
            "needs": self.needs,
            "then": self.then,
            "facts": self.decision.facts,
        }


def outlook(
    spec: DomainSpec,
    state: DomainState,
    evidence: Evidence,
    now: datetime,
    per_hour: float | None,
) -> Outlook:
    """What stands between a domain and its next stage.

    Args:
        evidence: As at a tick now.
        per_hour: Comparisons an hour, lately; None where there were none.
    """
    decision = decide(spec, state, evidence, now)
    missing = _missing(spec, state, decision)
    return Outlook(
        decision,
        missing,
        per_hour,
        _wait(spec, state, now, missing, per_hour),
        _then(spec, state, decision, now),
    )


def _missing(spec: DomainSpec, state: DomainState, decision: Decision) -> int | None:
    facts = decision.facts
    count: int = facts["comparisons"]
    at_least = max(spec.min_evidence - count, 0)
    if facts["next_stage"] is None or decision.verdict == "fail":
        return None
    if not count:
        return at_least
    more: int | None = facts["comparisons_needed"]
    # Below the floor so far, but there are too few of them yet to say so.
    return at_least or None if more is None else max(more, at_least)


def _wait(
    spec: DomainSpec,
    state: DomainState,
    now: datetime,
    missing: int | None,
    per_hour: float | None,
) -> timedelta | None:
    if missing is None or (missing and not per_hour):
        return None
    spans = [state.stage_since + spec.dwell - now]
    if state.cooldown_until is not None:
        spans.append(state.cooldown_until - now)
    if missing and per_hour:
        spans.append(timedelta(hours=missing / per_hour))
    return max(*spans, timedelta(0))


def _then(spec: DomainSpec, state: DomainState, decision: Decision, now: datetime) -> str:
    if state.mode != "active":
        return f"nothing goes up while it is {state.mode}; `rollout resume`"
    if decision.action not in ("hold", "promote"):
        return f"at the next tick: {decision.action.replace('_', ' ')}"
    share = decision.facts["next_stage"]
    if share is None:
        return "it is at the last stage; " + _bolder(state)
    steps = []
    if share in spec.approval.before and state.approved_stage != state.stage + 1:
        steps.append("a person must approve it (`rollout promote`)")
    frozen = next((one.text for one in spec.freeze_windows if one.holds(now)), None)
    if frozen is not None:
        steps.append(f"the freeze window {frozen} must end")
    first = f"{' and '.join(steps)}, then " if steps else ""
    return f"{first}{percent(share)} of traffic"


def _bolder(state: DomainState) -> str:
    if state.ladder is None:
        return "no bolder threshold is being judged"
    test = state.ladder.test
    index = 0 if test.certified is None else test.certified + 1
    if index == len(test.thresholds):
        return "the boldest threshold is certified"
    more = test.expected_more(index)
    when = "out of reach so far" if more is None else f"about {count_of(more, 'more trace')} away"
    return f"the certificate of threshold {test.thresholds[index]:.4g} is {when}"
