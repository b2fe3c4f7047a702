"""Where a domain stands: a value with JSON both ways."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, cast

from rollout.control.error_budget import ErrorBudget
from rollout.control.monitor import Comparison, Monitor, read, tolerated, written
from rollout.control.schema import DomainSpec
from rollout.control.signals import TrafficSignals
from rollout.stats.ladder import ThresholdLadder
from rollout.values import RolloutError

__all__ = ["Comparison", "DomainState", "Ladder", "Mode", "Monitor", "tolerated"]

Mode = Literal["active", "paused", "aborted", "locked"]


@dataclass(frozen=True)
class Ladder:
    """The nested thresholds of one set of exit heads, and the evidence for each.

    Attributes:
        heads: Content hash of the heads.
        test: See `rollout.stats.ladder`.
    """

    heads: str
    test: ThresholdLadder


@dataclass(frozen=True)
class DomainState:
    """Where a domain's rollout stands.

    Attributes:
        stage: Index into the spec's stages; 0 is shadow-only.
        mode: paused: a person keeps it where it is (rollback stays live); aborted: a person took
            it to stage 0 until `resume`; locked: it stepped back too often, no promotion until a
            person's `resume` (rollback stays live).
        policy_version: The live policy; None before the first calibration.
        stage_since: When this stage, or this policy in it, began.
        cooldown_until: No promotion before this.
        approved_stage: The stage that a person has approved entering.
        failed_policy: The policy version whose failure in shadow has been reported.
        budget: What this policy's promotions may still get wrong; None: a straight climb's.
        setbacks: When it lately rolled back or narrowed for cause.
        decided_at: The time of the last tick.
        error_since: Since when the verdict is *error* without a break; None where it is not.
        shadow_rate: The shadow rate in force; None: the spec's.
        saved_layers: Layers that early answers saved since stage entry.
        shadow_layers: Layers computed only for comparisons since stage entry.
        ladder: The evidence for bolder thresholds; None where there is none.
        ladders: How many ladders the domain has had.
        signals: What the traffic itself says under the live policy; None before its first request.
    """

    stage: int
    mode: Mode
    policy_version: int | None
    stage_since: datetime
    cooldown_until: datetime | None
    approved_stage: int | None
    monitor: Monitor
    failed_policy: int | None = None
    budget: ErrorBudget | None = None
    setbacks: tuple[datetime, ...] = ()
    decided_at: datetime | None = None
    error_since: datetime | None = None
    shadow_rate: float | None = None
    saved_layers: float = 0.0
    shadow_layers: float = 0.0
    ladder: Ladder | None = None
    ladders: int = 0
    signals: TrafficSignals | None = None

    @classmethod
    def start(
        cls, spec: DomainSpec, now: datetime, policy_version: int | None = None
    ) -> DomainState:
        """Shadow-only, nothing seen."""
        return cls(0, "active", policy_version, now, None, None, Monitor.start(spec))

    def stage_weight(self, spec: DomainSpec) -> float:
        """The share of traffic that may exit early.

        Raises:
            RolloutError: where the spec has no such stage (it was changed without `spec_changed`).
        """
        if not 0 <= self.stage < len(spec.stages):
            raise RolloutError(
                f"stage {self.stage} is not among the spec's {len(spec.stages)} stages; "
                "apply the spec again"
            )
        return spec.stages[self.stage]

    def error_budget(self, spec: DomainSpec) -> ErrorBudget:
        """What this policy's promotions may still get wrong."""
        if self.budget is not None:
            return self.budget
        return ErrorBudget.climbed(spec.agreement.alpha, len(spec.stages), self.stage)

    def entering(self, spec: DomainSpec, stage: int, now: datetime) -> DomainState:
        """In another stage, or with another policy: nothing seen there yet, nothing approved.

        Full-against-full pairs speak of the model alone and stay.
        """
        monitor = replace(
            Monitor.start(spec),
            full_count=self.monitor.full_count,
            full_mismatches=self.monitor.full_mismatches,
        )
        return replace(self._moved(spec, stage, now), monitor=monitor)

    def promoted(self, spec: DomainSpec, now: datetime) -> DomainState:
        """One stage up: fresh evidence for the next promotion, but the detectors go on."""
        return replace(self._moved(spec, self.stage + 1, now), monitor=self.monitor.at_next_stage())

    def _moved(self, spec: DomainSpec, stage: int, now: datetime) -> DomainState:
        return replace(
            self,
            stage=stage,
            stage_since=now,
            approved_stage=None,
            budget=self.error_budget(spec).next(len(spec.stages) - 1 - stage),
            saved_layers=0.0,
            shadow_layers=0.0,
        )

    def to_json(self) -> dict[str, Any]:
        ladder = self.ladder
        return {
            "stage": self.stage,
            "mode": self.mode,
            "policy_version": self.policy_version,
            "stage_since": self.stage_since.isoformat(),
            "cooldown_until": written(self.cooldown_until),
            "approved_stage": self.approved_stage,
            "failed_policy": self.failed_policy,
            "monitor": self.monitor.to_json(),
            "budget": None if self.budget is None else self.budget.to_json(),
            "setbacks": [at.isoformat() for at in self.setbacks],
            "decided_at": written(self.decided_at),
            "error_since": written(self.error_since),
            "shadow_rate": self.shadow_rate,
            "saved_layers": self.saved_layers,
            "shadow_layers": self.shadow_layers,
            "ladder": None
            if ladder is None
            else {"heads": ladder.heads, "test": ladder.test.to_json()},
            "ladders": self.ladders,
            "signals": None if self.signals is None else self.signals.to_json(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DomainState:
        """Read what `to_json` wrote, in this release or the first, which knew fewer fields."""
        budget, ladder, signals = (values.get(name) for name in ("budget", "ladder", "signals"))
        return cls(
            stage=values["stage"],
            mode=cast(Mode, values["mode"]),
            policy_version=values["policy_version"],
            stage_since=datetime.fromisoformat(values["stage_since"]),
            cooldown_until=read(values["cooldown_until"]),
            approved_stage=values["approved_stage"],
            monitor=Monitor.from_json(values["monitor"]),
            failed_policy=values["failed_policy"],
            budget=None if budget is None else ErrorBudget.from_json(budget),
            setbacks=tuple(datetime.fromisoformat(at) for at in values.get("setbacks", ())),
            decided_at=read(values.get("decided_at")),
            error_since=read(values.get("error_since")),
            shadow_rate=values.get("shadow_rate"),
            saved_layers=values.get("saved_layers", 0.0),
            shadow_layers=values.get("shadow_layers", 0.0),
            ladder=None
            if ladder is None
            else Ladder(ladder["heads"], ThresholdLadder.from_json(ladder["test"])),
            ladders=values.get("ladders", 0),
            signals=None if signals is None else TrafficSignals.from_json(signals),
        )
