"""What the comparisons of the live policy say: a value of constant size, with JSON both ways."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rollout.control.arms import ArmCounts
from rollout.control.schema import DomainSpec
from rollout.stats.ceiling import CeilingTest
from rollout.stats.change import ChangeDetector
from rollout.stats.promotion import PromotionTest
from rollout.stats.weighted import WeightedPromotionTest

_CEILING_ALPHA = 0.05
"""Chance that the lower bound of the noise ceiling, on which the detectors rest, is ever wrong."""


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
        severity: What a mismatch costs, in [0, 1] (`AgreementSpec.loss`).
    """

    at: datetime
    matched: bool
    exited: bool
    label: str
    severity: float = 1.0

    @property
    def loss(self) -> float:
        """What this request cost, in [0, 1]."""
        return 0.0 if self.matched else self.severity


@dataclass(frozen=True)
class Monitor:
    """All that the comparisons of the live policy say, in O(1) state.

    Attributes:
        promotion: Evidence for the next promotion, from comparisons since stage entry only.
        target: Detector of an error rate (mean loss) above 1 - target.
        floor: Detector of an error rate (mean loss) above 1 - floor.
        guards: Per guarded label: detector over early answers to requests of that label.
        requests: Requests answered since stage entry, compared or not.
        exited: Comparisons since stage entry in which the policy answered early.
        exited_mismatches: Those of them that differed.
        last_comparison_at: None before the first one of this policy.
        weighted: The evidence that decides in place of `promotion` where mismatches have
            severities; else None.
        loss: What the mismatches since stage entry cost together.
        arms: Whether the split of traffic since stage entry is the stage's.
        full_count: Full answers compared with another full answer to the same request, ever.
        full_mismatches: Those of them that differed.
        relative: Target and floor where they are relative to that noise ceiling; else None.
    """

    promotion: PromotionTest
    target: ChangeDetector
    floor: ChangeDetector
    guards: Mapping[str, ChangeDetector]
    requests: int = 0
    exited: int = 0
    exited_mismatches: int = 0
    last_comparison_at: datetime | None = None
    weighted: WeightedPromotionTest | None = None
    loss: float = 0.0
    arms: ArmCounts = ArmCounts()
    full_count: int = 0
    full_mismatches: int = 0
    relative: tuple[float, float] | None = None

    @classmethod
    def start(cls, spec: DomainSpec) -> Monitor:
        """A monitor that has seen nothing."""
        patience = spec.evidence.mean_time_to_false_alarm
        target, floor = spec.agreement.target, spec.agreement.floor
        return cls(
            promotion=PromotionTest.start(floor),
            target=ChangeDetector.start(tolerated(target), patience),
            floor=ChangeDetector.start(tolerated(floor), patience),
            guards={
                label: ChangeDetector.start(tolerated(agreement), patience)
                for label, agreement in spec.guarded.items()
            },
            weighted=WeightedPromotionTest.start(floor) if spec.agreement.severity else None,
            relative=(target, floor) if spec.agreement.noise_ceiling else None,
        )

    def update(
        self,
        comparisons: Sequence[Comparison],
        requests: int = 0,
        *,
        keys: Iterable[tuple[str, bool]] = (),
        weight: float = 0.0,
        full_pairs: Sequence[bool] = (),
    ) -> Monitor:
        """The monitor after these comparisons, and `requests` more answers (compared or not).

        Args:
            keys: Of requests assigned at this stage: hash of the request key, whether it was early.
            weight: The stage's share that they were assigned with.
            full_pairs: Whether each pair of full answers to one request matched.

        Raises:
            ValueError: for a severity outside [0, 1].
        """
        disagreed: list[bool] | list[float] = [not one.matched for one in comparisons]
        weighted = self.weighted
        if weighted is not None:
            losses = [one.loss for one in comparisons]
            weighted, disagreed = weighted.update(losses), losses
        loss = self.loss
        # In order, not by `sum`: the same bits for every split into ticks.
        for one in disagreed:
            loss += one
        exited = [one for one in comparisons if one.exited]
        seen = [one.at for one in comparisons]
        if self.last_comparison_at is not None:
            seen.append(self.last_comparison_at)
        return replace(
            self,
            promotion=self.promotion.update([one.matched for one in comparisons]),
            target=self._at_ceiling(self.target, 0).update(disagreed),
            floor=self._at_ceiling(self.floor, 1).update(disagreed),
            guards={
                label: detector.update(not one.matched for one in exited if one.label == label)
                for label, detector in self.guards.items()
            },
            requests=self.requests + requests,
            exited=self.exited + len(exited),
            exited_mismatches=self.exited_mismatches + sum(not one.matched for one in exited),
            last_comparison_at=max(seen, default=None),
            weighted=weighted,
            loss=loss,
            arms=self.arms.update(keys, weight),
            full_count=self.full_count + len(full_pairs),
            full_mismatches=self.full_mismatches + sum(not matched for matched in full_pairs),
        )

    def _at_ceiling(self, detector: ChangeDetector, which: int) -> ChangeDetector:
        """The detector, tolerating what the pairs so far allow: settled before what it sees next.

        1 - promise * lower bound of the ceiling, which is never less than the error of a policy
        that keeps the promise: the mean time to false alarm holds.
        """
        if self.relative is None:
            return detector
        lower = self.ceiling.ceiling(_CEILING_ALPHA)[0]
        limit = min(tolerated(self.relative[which] * lower), 0.5)
        return replace(detector, tolerated_error=limit)

    @property
    def ceiling(self) -> CeilingTest:
        """Both kinds of pairs since stage entry, at the plain floor."""
        return CeilingTest(
            self.promotion.floor,
            self.promotion.count,
            self.promotion.mismatches,
            self.full_count,
            self.full_mismatches,
        )

    def at_next_stage(self) -> Monitor:
        """Counts and promotion evidence start anew; the detectors go on, the policy is the same."""
        weighted = self.weighted
        return replace(
            self,
            promotion=PromotionTest.start(self.promotion.floor),
            requests=0,
            exited=0,
            exited_mismatches=0,
            weighted=None if weighted is None else WeightedPromotionTest.start(weighted.floor),
            loss=0.0,
            arms=ArmCounts(),
        )

    @property
    def agreement(self) -> float | None:
        """1 - mean loss since stage entry; None before the first comparison."""
        if self.weighted is None:
            return self.promotion.agreement
        return 1.0 - self.loss / self.promotion.count if self.promotion.count else None

    @property
    def e_value(self) -> float:
        """Evidence that agreement is above the floor."""
        return (self.weighted or self.promotion).e_value

    @property
    def alarms(self) -> tuple[str, ...]:
        """Which detectors have alarmed: `floor`, `target`, `guard LABEL`."""
        alarmed = [name for name in ("floor", "target") if getattr(self, name).alarmed]
        alarmed += [f"guard {label}" for label, guard in self.guards.items() if guard.alarmed]
        return tuple(alarmed)

    @property
    def fault(self) -> str | None:
        """Which of the statistics is no longer a number, in words; None where all are."""
        detectors = {"target": self.target, "floor": self.floor, **self.guards}
        for name, detector in detectors.items():
            if not all(math.isfinite(level) for level in detector.levels):
                return f"the detector {name!r} is no longer a number"
        if not (math.isfinite(self.loss) and math.isfinite(self.e_value)):
            return "the evidence for promotion is no longer a number"
        return None

    def to_json(self) -> dict[str, Any]:
        return {
            "promotion": self.promotion.to_json(),
            "target": self.target.to_json(),
            "floor": self.floor.to_json(),
            "guards": {label: detector.to_json() for label, detector in self.guards.items()},
            "requests": self.requests,
            "exited": self.exited,
            "exited_mismatches": self.exited_mismatches,
            "last_comparison_at": written(self.last_comparison_at),
            "weighted": None if self.weighted is None else self.weighted.to_json(),
            "loss": self.loss,
            "arms": self.arms.to_json(),
            "full_count": self.full_count,
            "full_mismatches": self.full_mismatches,
            "relative": None if self.relative is None else list(self.relative),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Monitor:
        """Read what `to_json` wrote, in this release or the first, which knew fewer fields."""
        weighted, arms, relative = (values.get(name) for name in ("weighted", "arms", "relative"))
        promotion = PromotionTest.from_json(values["promotion"])
        return cls(
            promotion=promotion,
            target=ChangeDetector.from_json(values["target"]),
            floor=ChangeDetector.from_json(values["floor"]),
            guards={
                label: ChangeDetector.from_json(detector)
                for label, detector in values["guards"].items()
            },
            requests=values["requests"],
            exited=values["exited"],
            exited_mismatches=values["exited_mismatches"],
            last_comparison_at=read(values["last_comparison_at"]),
            weighted=None if weighted is None else WeightedPromotionTest.from_json(weighted),
            loss=values.get("loss", float(promotion.mismatches)),
            arms=ArmCounts() if arms is None else ArmCounts.from_json(arms),
            full_count=values.get("full_count", 0),
            full_mismatches=values.get("full_mismatches", 0),
            relative=None if relative is None else (relative[0], relative[1]),
        )


def tolerated(agreement: float) -> float:
    """The tolerated error, without the noise of binary fractions.

    >>> tolerated(0.98)
    0.02
    """
    return round(1.0 - agreement, 12)


def written(moment: datetime | None) -> str | None:
    """A moment as JSON keeps it."""
    return None if moment is None else moment.isoformat()


def read(text: str | None) -> datetime | None:
    """The moment that `written` wrote."""
    return None if text is None else datetime.fromisoformat(text)
