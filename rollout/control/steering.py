"""The sections of rollout.yaml on how it rolls out: what is promised, sampled, moved, undone."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rollout.control.durations import format_duration
from rollout.control.sections import Duration, Problem, Section, raise_all

Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Lever = Literal["share", "threshold"]

ANY_LABEL = "*"
"""In `agreement.severity`: every label that is not named."""


class AgreementSpec(Section):
    """What is promised: the share of early-arm answers equal to the full-depth answer."""

    target: float = Field(
        default=0.98,
        description="Agreement to be reached. 1 - target is the tolerated error: thresholds are "
        "certified to it and the first change detector guards it.",
    )
    floor: float = Field(
        default=0.95,
        description="No promotion before agreement is certified above this; falling below it "
        "rolls back.",
    )
    alpha: float = Field(
        default=0.05,
        gt=0.0,
        le=0.5,
        description="Chance that a policy whose agreement is not above the floor is ever "
        "promoted; shared over all promotions it tries for, repeated ones included.",
    )
    severity: dict[str, Share | dict[str, Share]] = Field(
        default={},
        description="What a wrong early answer costs, from 0 to 1, by the full model's label: one "
        "number, or one per early label; `*` is every other label, 1 where nothing is named. "
        "Agreement is then 1 - mean cost.",
    )
    noise_ceiling: bool = Field(
        default=False,
        description="Read agreement relative to how often the full model agrees with itself, "
        "from the pairs that shadow.replay_share draws, then from the control arm, too.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        problems: list[Problem] = []
        if not 0.5 <= self.floor < 1.0:
            problems.append((("floor",), f"{self.floor:g} is outside [0.5, 1)"))
        if not 0.5 < self.target < 1.0:
            problems.append(
                (("target",), f"{self.target:g} must lie strictly between 0.5 and 1; try 0.98")
            )
        if self.severity and self.noise_ceiling:
            problems.append(
                (("noise_ceiling",), "does not go together with severity; leave one of them out")
            )
        if not problems and self.floor >= self.target:
            problems.append(
                (
                    ("floor",),
                    f"{self.floor:g} is not below the target ({self.target:g}); lower the floor "
                    "or raise the target",
                )
            )
        raise_all(problems)
        return self

    def loss(self, full: str, early: str | None) -> float:
        """What the early answer costs where the full model says otherwise, in [0, 1].

        Args:
            early: None where it is not known: the highest cost of this full label.

        >>> promise = AgreementSpec(severity={"*": 0.2, "refund": {"invoice": 0.5}})
        >>> promise.loss("invoice", "refund"), promise.loss("refund", "invoice")
        (0.2, 0.5)
        >>> promise.loss("refund", "fraud"), promise.loss("refund", None)
        (1.0, 1.0)
        """
        costs = self.severity.get(full, self.severity.get(ANY_LABEL, 1.0))
        if not isinstance(costs, dict):
            return costs
        other = costs.get(ANY_LABEL, 1.0)
        return max(other, *costs.values()) if early is None else costs.get(early, other)


class ShadowSpec(Section):
    """How many early-arm requests are also evaluated at full depth."""

    rate: Rate = Field(
        default=0.1,
        description="Share of early-arm requests that are shadowed to begin with, and while "
        "evidence is thin.",
    )
    min: Rate = Field(
        default=0.02, description="The rate falls to this when all is calm, never below."
    )
    max: Rate = Field(
        default=1.0,
        description="The rate rises to this when a signal moves or evidence nears an alarm.",
    )
    budget: Rate = Field(
        default=0.3,
        description="Shadows may cost this share of the layers that early exit saves; the rate "
        "rises above min only within it.",
    )
    replay_share: float = Field(
        default=0.05,
        ge=0.0,
        le=1.0,
        description="Share of the shadows that another worker also replays from scratch, as the "
        "independent check.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        problems: list[Problem] = []
        if self.min > self.max:
            problems.append((("min",), f"{self.min:g} is above max ({self.max:g})"))
        elif not self.min <= self.rate <= self.max:
            problems.append(
                (
                    ("rate",),
                    f"{self.rate:g} is outside min to max ({self.min:g} to {self.max:g}); change "
                    "the rate or the range",
                )
            )
        raise_all(problems)
        return self


class LeverSpec(Section):
    """Which of the two levers is moved first: the share of traffic, or the threshold."""

    down: tuple[Lever, ...] = Field(
        default=("threshold", "share"),
        description="Short of target: threshold tightens where a stricter one is certified, share "
        "narrows by a stage. The first that can be moved is; without threshold, none is tightened.",
    )
    up: tuple[Lever, ...] = Field(
        default=("share", "threshold"),
        description="Well certified: share promotes, threshold loosens where a bolder one is "
        "certified; share first loosens at the last stage only. Without threshold, none is "
        "loosened.",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        raise_all(
            [
                ((way,), "name share, and threshold at most once: [threshold, share], say")
                for way in ("down", "up")
                if "share" not in getattr(self, way)
                or len(set(getattr(self, way))) < len(getattr(self, way))
            ]
        )
        return self


class RollbackSpec(Section):
    """What happens when agreement is lost."""

    to: float = Field(default=0.0, description="The stage to fall back to.")
    cooldown: Duration = Field(
        default=timedelta(hours=24),
        description="Nothing is widened for this long after a setback: a rollback, a narrowing or "
        "a tightening for cause.",
    )
    backoff: float = Field(
        default=2.0,
        ge=1.0,
        le=10.0,
        description="The cool-down grows by this factor with each further one within `per`.",
    )
    cooldown_max: Duration = Field(
        default=timedelta(days=7),
        description="The longest that the factor makes a cool-down; one longer from the start "
        "stays.",
    )
    budget: int = Field(
        default=3,
        ge=1,
        le=100,
        description="With this many setbacks within `per` the domain is locked until a person's "
        "`rollout resume`.",
    )
    per: Duration = Field(default=timedelta(days=7), description="The span that budget counts in.")


class EvidenceSpec(Section):
    """When evidence is too old, and how often a detector may cry wolf."""

    stale_after: Duration = Field(
        default=timedelta(hours=2),
        description="Without a comparison for this long, nothing is promoted.",
    )
    blind_after: Duration = Field(
        default=timedelta(hours=12),
        description="Blind for this long (answers without a comparison, a broken monitor, arms "
        "that contradict the stage), the domain steps down to safe_share.",
    )
    safe_share: Share = Field(
        default=0.0, description="The stage that a blind domain steps down to; 0 is full depth."
    )
    signals: Literal["watch", "hold"] = Field(
        default="watch",
        description="A label-free signal that moved: watch raises the shadow rate, hold also "
        "holds promotions. It never rolls back.",
    )
    mean_time_to_false_alarm: float = Field(
        default=20000,
        ge=100,
        description="Mean comparisons until a detector raises a false alarm, at least.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.blind_after <= self.stale_after:
            raise_all(
                [
                    (
                        ("blind_after",),
                        f"{format_duration(self.blind_after)} is not after stale_after "
                        f"({format_duration(self.stale_after)}); make it longer",
                    )
                ]
            )
        return self
