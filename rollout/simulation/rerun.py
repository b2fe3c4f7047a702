"""Another spec over the stored past: the very loop of the simulation, fed with what was stored.

What was compared then is what there is: a spec that would have served more early answers sees no
more comparisons, and thresholds move when they moved then. People did what they did, where their
command still makes sense.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from rollout.control.commands import command
from rollout.control.decision import Decision
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState
from rollout.simulation.loop import Arrivals, run
from rollout.store.past import Past, PastRequest, PastRow
from rollout.values import RolloutError

MOST_TICKS = 500_000


@dataclass(frozen=True)
class Rerun:
    """What a spec would have decided.

    Attributes:
        moves: What changed the share or was done by a person, in order.
        holds: Ticks at which nothing changed.
        mean_share: Of traffic, over the time.
        last: The last decision.
    """

    moves: tuple[PastRow, ...]
    holds: int
    mean_share: float
    last: Decision | None


def rerun(
    spec: DomainSpec, past: Past, requests: Iterable[PastRequest], between_ticks: timedelta
) -> Rerun:
    """Decide again what was decided, under `spec`.

    Args:
        requests: Of `past`, in order of their time.

    Raises:
        RolloutError: so short a span between ticks that there are too many.
    """
    ticks = (past.end - past.start) // between_ticks + 1
    if ticks > MOST_TICKS:
        raise RolloutError(
            f"{ticks:,} ticks are too many; take a longer --every or a later --since"
        )
    story = _Story(spec, past, requests)
    holds, share_time, last = 0, 0.0, None
    moments = (past.start + number * between_ticks for number in range(1, ticks + 1))
    for step in run(spec, story.first_state(), moments, story.arrivals, story.meddle):
        last = step.decision
        share_time += step.state.stage_weight(spec)
        if last.action == "hold":
            holds += 1
            continue
        before, after = (state.stage_weight(spec) for state in (step.state, last.state_after))
        version = last.state_after.policy_version
        story.moves.append(
            PastRow(step.at, last.action, last.rule, "controller", before, after, version, None)
        )
    return Rerun(tuple(story.moves), holds, share_time / ticks, last)


class _Story:
    """The past as it unfolds: requests up to each tick, and what people did."""

    def __init__(self, spec: DomainSpec, past: Past, requests: Iterable[PastRequest]) -> None:
        self.moves: list[PastRow] = []
        self._spec = spec
        self._past = past
        self._requests = iter(requests)
        self._next: PastRequest | None = next(self._requests, None)
        self._rows = list(past.rows)
        self._killed = False

    def first_state(self) -> DomainState:
        """Never at a larger share than then."""
        stages = self._spec.stages
        stage = max(place for place, share in enumerate(stages) if share <= self._past.share)
        start = DomainState.start(self._spec, self._past.start, self._past.policy_version)
        return replace(start, stage=stage)

    def arrivals(self, now: datetime, state: DomainState) -> Arrivals:
        requests, failed, saved, spent = 0, 0, 0, 0
        comparisons, first_unseen = [], None
        while self._next is not None and self._next.at <= now:
            one, self._next = self._next, next(self._requests, None)
            requests += 1
            failed += one.failed
            saved, spent = saved + one.saved_layers, spent + one.shadow_layers
            if one.comparison is not None and one.policy_version == state.policy_version:
                comparisons.append(one.comparison)
                first_unseen = None
            elif first_unseen is None:
                first_unseen = one.at
        return Arrivals(
            requests, comparisons, failed, first_unseen, saved, spent, killed=self._killed
        )

    def meddle(self, now: datetime, state: DomainState, decision: Decision) -> DomainState:
        while self._rows and self._rows[0].at <= now:
            state = self._done(self._rows.pop(0), state)
        return state

    def _done(self, row: PastRow, state: DomainState) -> DomainState:
        if row.killed is not None:
            self._killed = row.killed
        if row.policy_version != state.policy_version:
            # Thresholds are moved as they were then; a new calibration starts in shadow.
            stage = 0 if row.action == "calibrate" or row.policy_version is None else state.stage
            there = state.entering(self._spec, stage, row.at)
            return replace(there, policy_version=row.policy_version)
        if row.verb is None:
            return state
        try:
            done = command(self._spec, state, row.verb, row.actor, "", row.at)
        except RolloutError:
            # It makes no sense where this spec has led.
            return state
        after = done.state_after
        before = state.stage_weight(self._spec)
        share = after.stage_weight(self._spec)
        self.moves.append(
            PastRow(
                row.at, done.action, done.rule, row.actor, before, share, after.policy_version, None
            )
        )
        return after


def counts(rows: Iterable[PastRow]) -> dict[str, int]:
    """How often each action moved something.

    >>> counts([])
    {'promote': 0, 'loosen': 0, 'tighten': 0, 'narrow': 0, 'roll_back': 0}
    """
    found = dict.fromkeys(("promote", "loosen", "tighten", "narrow", "roll_back"), 0)
    for row in rows:
        if row.action in found:
            found[row.action] += 1
    return found


@dataclass(frozen=True)
class Line:
    """A moment of two ledgers; None where only the other one moved."""

    at: datetime
    stored: PastRow | None
    rerun: PastRow | None


def side_by_side(
    stored: Iterable[PastRow], rerun: Iterable[PastRow], near: timedelta
) -> list[Line]:
    """Both ledgers in order of time; the same action to the same share within `near` on one line.

    >>> from datetime import UTC
    >>> at = datetime(2026, 11, 16, tzinfo=UTC)
    >>> move = PastRow(at, "promote", "certified", "controller", 0.0, 0.1, 1, None)
    >>> later = replace(move, at=at + timedelta(seconds=30))
    >>> [line.rerun is later for line in side_by_side([move], [later], timedelta(minutes=1))]
    [True]
    """
    left, right = list(stored), list(rerun)
    lines: list[Line] = []
    while left or right:
        both = bool(left and right) and (
            abs(left[0].at - right[0].at) <= near
            and (left[0].action, left[0].after) == (right[0].action, right[0].after)
        )
        if both:
            lines.append(Line(left[0].at, left.pop(0), right.pop(0)))
        elif not right or (left and left[0].at <= right[0].at):
            lines.append(Line(left[0].at, left.pop(0), None))
        else:
            lines.append(Line(right[0].at, None, right.pop(0)))
    return lines


def to_json(row: PastRow) -> dict[str, Any]:
    return {
        "at": row.at.isoformat(),
        "action": row.action,
        "rule": row.rule,
        "actor": row.actor,
        "before": row.before,
        "after": row.after,
        "policy_version": row.policy_version,
    }
