"""What each rule of the controller looks at, and how it answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rollout.control.decision import Action, Decision, Evidence
from rollout.control.facts import count_of, percent
from rollout.control.schema import DomainSpec
from rollout.control.state import DomainState


@dataclass(frozen=True)
class Tick:
    """One domain, one moment, and how a rule answers about it."""

    spec: DomainSpec
    state: DomainState
    evidence: Evidence
    now: datetime
    facts: dict[str, Any]

    def hold(self, rule: str, reason: str, incident: str | None = None) -> Decision:
        return self.act("hold", rule, reason, self.state, incident)

    def act(
        self,
        action: Action,
        rule: str,
        reason: str,
        after: DomainState,
        incident: str | None = None,
        threshold: float | None = None,
    ) -> Decision:
        return Decision(action, rule, reason, after, self.facts, incident, threshold)

    @property
    def share(self) -> str:
        return percent(self.state.stage_weight(self.spec))

    @property
    def below(self) -> str:
        return percent(self.spec.stages[max(self.state.stage - 1, 0)])

    @property
    def frozen(self) -> str | None:
        """The freeze window that `now` lies in, as written; None outside of all."""
        windows = (window for window in self.spec.freeze_windows if window.holds(self.now))
        return next((window.text for window in windows), None)

    @property
    def seen(self) -> str:
        """What was compared since stage entry, in words."""
        agreement = self.facts["agreement"]
        if agreement is None:
            return "no comparisons yet"
        count = count_of(self.state.monitor.promotion.count, "comparison")
        relative = " of the noise ceiling" if self.state.monitor.relative else ""
        return f"{count} so far, agreement {agreement:.3f}{relative}"
