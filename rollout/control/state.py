"""Where a domain stands, and what its monitors have seen: values with JSON both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, cast

from rollout.control.schema import DomainSpec
from rollout.stats.change import ChangeDetector
from rollout.stats.promotion import PromotionTest
from rollout.values import RolloutError

Mode = Literal["active", "paused", "aborted"]


@dataclass(frozen=True)
class Comparison:
    """One request whose policy answer was compared with its full-depth answer.

    Comparisons are counted unweighted. That is sound because both arms and the shadows are drawn
    by hashes that do not look at the request: each is a fair draw from the same stream. Do not
    hand in rows that were compared *because of* how they went, such as unsampled fallbacks.

    Attributes:
        at: When the request was answered.
        matched: Whether the answers are equal; a fallback matches by construction.
        exited: Whether the policy answered before the last layer.
        label: The full-depth answer.
    """

    at: datetime
    matched: bool
    exited: bool
    label: str


@dataclass(frozen=True)
class Monitor:
    """All that the comparisons of the live policy say, in O(1) state.

    Attributes:
        promotion: Evidence for the next promotion, from comparisons since stage entry only.
        target: Detector of an error rate above 1 - target.
        floor: Detector of an error rate above 1 - floor.
        guards: Per guarded label: detector over early answers to requests of that label.
        requests: Requests answered since stage entry, compared or not.
        exited: Comparisons since stage entry in which the policy answered early.
        exited_mismatches: Those of them that differed.
        last_comparison_at: None before the first one of this policy.
    """

    promotion: PromotionTest
    target: ChangeDetector
    floor: ChangeDetector
    guards: Mapping[str, ChangeDetector]
    requests: int = 0
    exited: int = 0
    exited_mismatches: int = 0
    last_comparison_at: datetime | None = None

    @classmethod
    def start(cls, spec: DomainSpec) -> Monitor:
        """A monitor that has seen nothing."""
        patience = spec.evidence.mean_time_to_false_alarm
        return cls(
            promotion=PromotionTest.start(spec.agreement.floor),
            target=ChangeDetector.start(tolerated(spec.agreement.target), patience),
            floor=ChangeDetector.start(tolerated(spec.agreement.floor), patience),
            guards={
                label: ChangeDetector.start(tolerated(agreement), patience)
                for label, agreement in spec.guarded.items()
            },
        )

    def update(self, comparisons: Sequence[Comparison], requests: int = 0) -> Monitor:
        """The monitor after these comparisons, and `requests` more answers (compared or not)."""
        disagreed = [not comparison.matched for comparison in comparisons]
        exited = [comparison for comparison in comparisons if comparison.exited]
        seen = [comparison.at for comparison in comparisons]
        if self.last_comparison_at is not None:
            seen.append(self.last_comparison_at)
        return Monitor(
            promotion=self.promotion.update([comparison.matched for comparison in comparisons]),
            target=self.target.update(disagreed),
            floor=self.floor.update(disagreed),
            guards={
                label: detector.update(
                    not comparison.matched for comparison in exited if comparison.label == label
                )
                for label, detector in self.guards.items()
            },
            requests=self.requests + requests,
            exited=self.exited + len(exited),
            exited_mismatches=self.exited_mismatches
            + sum(not comparison.matched for comparison in exited),
            last_comparison_at=max(seen, default=None),
        )

    def at_next_stage(self) -> Monitor:
        """Counts and promotion evidence start anew; the detectors go on, the policy is the same."""
        return replace(
            self,
            promotion=PromotionTest.start(self.promotion.floor),
            requests=0,
            exited=0,
            exited_mismatches=0,
        )

    @property
    def alarms(self) -> tuple[str, ...]:
        """Which detectors have alarmed: `floor`, `target`, `guard LABEL`."""
        alarmed = [name for name in ("floor", "target") if getattr(self, name).alarmed]
        alarmed += [f"guard {label}" for label, guard in self.guards.items() if guard.alarmed]
        return tuple(alarmed)

    def to_json(self) -> dict[str, Any]:
        return {
            "promotion": self.promotion.to_json(),
            "target": self.target.to_json(),
            "floor": self.floor.to_json(),
            "guards": {label: detector.to_json() for label, detector in self.guards.items()},
            "requests": self.requests,
            "exited": self.exited,
            "exited_mismatches": self.exited_mismatches,
            "last_comparison_at": _written(self.last_comparison_at),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Monitor:
        return cls(
            promotion=PromotionTest.from_json(values["promotion"]),
            target=ChangeDetector.from_json(values["target"]),
            floor=ChangeDetector.from_json(values["floor"]),
            guards={
                label: ChangeDetector.from_json(detector)
                for label, detector in values["guards"].items()
            },
            requests=values["requests"],
            exited=values["exited"],
            exited_mismatches=values["exited_mismatches"],
            last_comparison_at=_read(values["last_comparison_at"]),
        )


@dataclass(frozen=True)
class DomainState:
    """Where a domain's rollout stands.

    Attributes:
        stage: Index into the spec's stages; 0 is shadow-only.
        mode: paused: a person keeps it where it is (rollback stays live); aborted: a person took
            it to stage 0 until `resume`.
        policy_version: The live policy; None before the first calibration.
        stage_since: When this stage, or this policy in it, began.
        cooldown_until: No promotion before this.
        approved_stage: The stage that a person has approved entering.
        failed_policy: The policy version whose failure in shadow has been reported.
    """

    stage: int
    mode: Mode
    policy_version: int | None
    stage_since: datetime
    cooldown_until: datetime | None
    approved_stage: int | None
    monitor: Monitor
    failed_policy: int | None = None

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

    def entering(self, spec: DomainSpec, stage: int, now: datetime) -> DomainState:
        """In another stage, or with another policy: nothing seen there yet, nothing approved."""
        return replace(
            self,
            stage=stage,
            stage_since=now,
            approved_stage=None,
            monitor=Monitor.start(spec),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "mode": self.mode,
            "policy_version": self.policy_version,
            "stage_since": self.stage_since.isoformat(),
            "cooldown_until": _written(self.cooldown_until),
            "approved_stage": self.approved_stage,
            "failed_policy": self.failed_policy,
            "monitor": self.monitor.to_json(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DomainState:
        return cls(
            stage=values["stage"],
            mode=cast(Mode, values["mode"]),
            policy_version=values["policy_version"],
            stage_since=datetime.fromisoformat(values["stage_since"]),
            cooldown_until=_read(values["cooldown_until"]),
            approved_stage=values["approved_stage"],
            monitor=Monitor.from_json(values["monitor"]),
            failed_policy=values["failed_policy"],
        )


def tolerated(agreement: float) -> float:
    """The tolerated error, without the noise of binary fractions.

    >>> tolerated(0.98)
    0.02
    """
    return round(1.0 - agreement, 12)


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _read(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
