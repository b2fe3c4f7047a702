"""The controller's loop over a stream of comparisons, synthetic or stored: its rules, no store.

One step is what one tick does in production: fold what is new into the monitor, `decide`, go on
from the state after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rollout.control.decide import decide
from rollout.control.decision import Decision, Evidence
from rollout.control.schema import DomainSpec
from rollout.control.state import Comparison, DomainState

Meddling = Callable[[datetime, DomainState, Decision], DomainState]
"""What people do after a decision: the state they leave."""


@dataclass(frozen=True)
class Arrivals:
    """What came since the tick before.

    Attributes:
        requests: Answered, compared or not.
        comparisons: Those that were compared, in order.
        not_comparable: Those whose comparison was due and failed.
        first_unseen: When the first request after the last of `comparisons` was answered; None
            where there was none.
        saved_layers: What early answers saved.
        shadow_layers: What was computed only to compare.
        killed: Whether the kill switch is on.
        full_pairs: Whether each pair of full answers to one request matched.
    """

    requests: int
    comparisons: Sequence[Comparison]
    not_comparable: int = 0
    first_unseen: datetime | None = None
    saved_layers: float = 0.0
    shadow_layers: float = 0.0
    killed: bool = False
    full_pairs: Sequence[bool] = ()


@dataclass(frozen=True)
class Step:
    """One tick: the state it found, with the arrivals counted, and what it decided."""

    at: datetime
    state: DomainState
    arrivals: Arrivals
    evidence: Evidence
    decision: Decision

    @property
    def moved(self) -> bool:
        """Whether the stage or the policy is another one now."""
        after = self.decision.state_after
        return (after.stage, after.policy_version) != (self.state.stage, self.state.policy_version)


def run(
    spec: DomainSpec,
    state: DomainState,
    moments: Iterable[datetime],
    arrivals: Callable[[datetime, DomainState], Arrivals],
    meddle: Meddling = lambda now, state, decision: state,
) -> Iterator[Step]:
    """One step per moment.

    Args:
        state: To begin with.
        moments: Rising.
        arrivals: What came between the moment before and this one, while the domain was in that
            state: how much is compared depends on its stage.
        meddle: People: called after each decision.
    """
    unseen: datetime | None = None
    for now in moments:
        new = arrivals(now, state)
        if new.comparisons or unseen is None:
            unseen = new.first_unseen
        step = decided(spec, counted(state, new), new, unseen, now)
        yield step
        state = meddle(now, step.decision.state_after, step.decision)


def counted(state: DomainState, new: Arrivals) -> DomainState:
    """The state that has seen these."""
    return replace(
        state,
        monitor=state.monitor.update(new.comparisons, new.requests, full_pairs=new.full_pairs),
        saved_layers=state.saved_layers + new.saved_layers,
        shadow_layers=state.shadow_layers + new.shadow_layers,
    )


def decided(
    spec: DomainSpec, state: DomainState, new: Arrivals, unseen: datetime | None, now: datetime
) -> Step:
    """One decision.

    Args:
        state: With `new` counted.
        unseen: When the first request after the last comparison was answered.
    """
    evidence = Evidence(
        requests=new.requests,
        comparisons=len(new.comparisons),
        not_comparable=new.not_comparable,
        oldest_unseen=unseen,
    )
    return Step(now, state, new, evidence, decide(spec, state, evidence, now))
