"""What a setback leaves behind: a cool-down that doubles, and in the end a lock.

Rollbacks, narrowings and tightenings for cause count alike, so that whatever the evidence does, a
domain moves up and down only so often: once `rollback.budget` of them fall within `rollback.per` a
person must look. Stepping down blind says nothing against the policy and does not count.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from rollout.control.facts import moment, span
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState


def recent_setbacks(spec: DomainSpec, state: DomainState, now: datetime) -> tuple[datetime, ...]:
    """Those within `rollback.per` before now."""
    return tuple(at for at in state.setbacks if now - at < spec.rollback.per)


def cooldown(spec: DomainSpec, setbacks: int) -> timedelta:
    """How long the cool-down after the `setbacks`-th setback within `per` lasts.

    >>> task = {"labels": "labels.txt", "template": "prompt.j2"}
    >>> spec = DomainSpec.from_json({"task": task, "rollback": {"cooldown": "1d"}})
    >>> [cooldown(spec, setbacks).days for setbacks in (1, 2, 3, 4)]
    [1, 2, 4, 7]
    """
    first = spec.rollback.cooldown
    longest = max(first, spec.rollback.cooldown_max)
    seconds = first.total_seconds() * spec.rollback.backoff ** (setbacks - 1)
    return timedelta(seconds=min(seconds, longest.total_seconds()))


def stepped_back(
    spec: DomainSpec, state: DomainState, stage: int, now: datetime
) -> tuple[DomainState, str]:
    """The state after a setback that leads to `stage`, and what follows from it, in words."""
    setbacks = (*recent_setbacks(spec, state, now), now)
    until = now + cooldown(spec, len(setbacks))
    locks = len(setbacks) >= spec.rollback.budget and state.mode == "active"
    after = replace(
        state.entering(spec, stage, now),
        setbacks=setbacks,
        cooldown_until=max(until, state.cooldown_until or until),
        mode="locked" if locks else state.mode,
        # What was learnt before the drop speaks of other traffic.
        ladder=None,
    )
    words = f"no promotion before {moment(after.cooldown_until or until)}"
    if locks:
        words += (
            f", and not before a person's `rollout resume`: setback {len(setbacks)} of "
            f"{spec.rollback.budget} allowed within {span(spec.rollback.per)}"
        )
    return after, words
