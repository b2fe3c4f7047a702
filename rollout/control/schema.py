"""The schema of rollout.yaml: every key, its default and its meaning, in one place."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rollout.control.durations import FreezeWindow, format_duration, parse_duration

NEVER_EARLY = "never_early"
"""The guard of a label that may not be answered early at all."""

_DOMAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")

Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)
]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]


Problem = tuple[tuple[str | int, ...], str]
"""Where, below the section that is checked, and what is wrong."""


def _raise(problems: list[Problem]) -> None:
    """Hand all problems of a section to `load_spec`, each with the key it is at."""
    if problems:
        shown = "; ".join(f"{'.'.join(map(str, at))}: {wrong}" for at, wrong in problems)
        raise PydanticCustomError("spec", "{shown}", {"shown": shown, "problems": problems})


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSpec(_Section):
    """The model that answers."""

    id: str = Field(min_length=1, description="Folder of the checkpoint (safetensors).")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="auto, cpu, mps, cuda or cuda:N.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Number format of the weights; auto: as the checkpoint has it."
    )
    quantization: Literal["none"] = Field(default="none", description="Only none so far.")


class CostSpec(_Section):
    """What a saved layer is worth."""

    currency: str = Field(min_length=1, description="Currency of the report, such as JPY.")
    accelerator_hour: float = Field(ge=0.0, description="Price of one accelerator hour.")
    mean_layer_ms: Literal["measured"] | Annotated[float, Field(gt=0.0)] = Field(
        default="measured",
        description="Mean time of one layer for one request, ms; measured: by calibration.",
    )


class TaskSpec(_Section):
    """What is asked of the model."""

    kind: Literal["choice"] = Field(default="choice", description="choice: one label of a list.")
    labels: str = Field(min_length=1, description="File with one label per line.")
    template: str = Field(min_length=1, description="Jinja2 file that makes the prompt.")


class AgreementSpec(_Section):
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
        description="Chance that a climb through all stages promotes a policy whose agreement is "
        "not above the floor; shared equally over its promotions.",
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
        if not problems and self.floor >= self.target:
            problems.append(
                (
                    ("floor",),
                    f"{self.floor:g} is not below the target ({self.target:g}); lower the floor "
                    "or raise the target",
                )
            )
        _raise(problems)
        return self


class ShadowSpec(_Section):
    """How many early-arm requests are also evaluated at full depth."""

    rate: Rate = Field(default=0.1, description="Share of early-arm requests that are shadowed.")
    min: Rate = Field(default=0.02, description="The rate never falls below this.")
    max: Rate = Field(default=1.0, description="The rate never rises above this.")
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
        _raise(problems)
        return self


class ApprovalSpec(_Section):
    """Where a person must agree."""

    before: tuple[float, ...] = Field(
        default=(), description="Stages entered only after a person's `rollout promote`."
    )


class RollbackSpec(_Section):
    """What happens when agreement is lost."""

    to: float = Field(default=0.0, description="The stage to fall back to.")
    cooldown: Duration = Field(
        default=timedelta(hours=24), description="No promotion for this long after a rollback."
    )


class EvidenceSpec(_Section):
    """When evidence is too old, and how often a detector may cry wolf."""

    stale_after: Duration = Field(
        default=timedelta(hours=2),
        description="Without a comparison for this long, nothing is promoted.",
    )
    blind_after: Duration = Field(
        default=timedelta(hours=12),
        description="Answering this long without a comparison narrows by one stage.",
    )
    mean_time_to_false_alarm: float = Field(
        default=20000,
        ge=100,
        description="Mean comparisons until a detector raises a false alarm, at least.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.blind_after <= self.stale_after:
            _raise(
                [
                    (
                        ("blind_after",),
                        f"{format_duration(self.blind_after)} is not after stale_after "
                        f"({format_duration(self.stale_after)}); make it longer",
                    )
                ]
            )
        return self


class TextSpec(_Section):
    """Whether customers' texts are kept."""

    store: bool = Field(default=False, description="Keep prompts; otherwise hashes only.")
    retention: Duration = Field(
        default=timedelta(days=30), description="Kept texts are purged after this."
    )


class DomainSpec(_Section):
    """One business domain."""

    task: TaskSpec = Field(description="What is asked of the model.")
    agreement: AgreementSpec = Field(default=AgreementSpec(), description="What is promised.")
    stages: tuple[float, ...] = Field(
        default=(0.0, 0.01, 0.05, 0.25, 0.5, 1.0),
        min_length=2,
        description="Shares of traffic that may exit early: from 0 (shadow-only), rising.",
    )
    dwell: Duration = Field(
        default=timedelta(minutes=30), description="A stage lasts at least this long."
    )
    min_evidence: int = Field(
        default=200, ge=1, description="Comparisons a stage needs before it is left upwards."
    )
    shadow: ShadowSpec = Field(default=ShadowSpec(), description="The sample that is checked.")
    guards: dict[str, Literal["never_early"] | Annotated[float, Field(ge=0.5, lt=1.0)]] = Field(
        default={},
        description="Labels whose errors cost more: never_early, or the agreement below which "
        "early answers for that label roll back.",
    )
    approval: ApprovalSpec = Field(default=ApprovalSpec(), description="Where a person must agree.")
    freeze: tuple[str, ...] = Field(
        default=(), description="Weekly windows without promotions, with a time zone."
    )
    rollback: RollbackSpec = Field(default=RollbackSpec(), description="When agreement is lost.")
    evidence: EvidenceSpec = Field(default=EvidenceSpec(), description="When evidence counts.")
    text: TextSpec = Field(default=TextSpec(), description="Whether texts are kept.")

    @field_validator("freeze")
    @classmethod
    def _windows(cls, windows: tuple[str, ...]) -> tuple[str, ...]:
        problems: list[Problem] = []
        for index, window in enumerate(windows):
            try:
                FreezeWindow.parse(window)
            except ValueError as error:
                problems.append(((index,), str(error)))
        _raise(problems)
        return windows

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        problems: list[Problem] = []
        if self.stages[0] != 0.0:
            problems.append(
                (
                    ("stages", 0),
                    f"{self.stages[0]:g} must be 0: a rollout starts shadow-only; put 0 in front",
                )
            )
        for index in range(1, len(self.stages)):
            here, before = self.stages[index], self.stages[index - 1]
            if here < before:
                wrong = f"{here:g} is below the stage before it ({before:g}); stages must rise"
            elif here == before:
                wrong = f"{here:g} stands twice; stages must rise"
            elif here > 1.0:
                wrong = f"{here:g} is above 1, which is all traffic; end at 1 or below"
            else:
                continue
            problems.append((("stages", index), wrong))
        _raise(problems)
        known = ", ".join(f"{share:g}" for share in self.stages)
        for index, share in enumerate(self.approval.before):
            if share not in self.stages[1:]:
                problems.append(
                    (
                        ("approval", "before", index),
                        f"{share:g} is not a stage one can be promoted to; stages are {known}",
                    )
                )
        if self.rollback.to not in self.stages[:-1]:
            problems.append(
                (
                    ("rollback", "to"),
                    f"{self.rollback.to:g} is not a stage below the last; stages are {known}",
                )
            )
        _raise(problems)
        return self

    @property
    def freeze_windows(self) -> tuple[FreezeWindow, ...]:
        """`freeze`, parsed."""
        return tuple(FreezeWindow.parse(window) for window in self.freeze)

    @property
    def promotion_alpha(self) -> float:
        """The share of alpha that each of a climb's promotions may use."""
        return self.agreement.alpha / (len(self.stages) - 1)

    @property
    def guarded(self) -> dict[str, float]:
        """Labels with an agreement of their own."""
        return {
            label: guard for label, guard in self.guards.items() if isinstance(guard, float | int)
        }

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DomainSpec:
        return cls.model_validate(values)


class Spec(_Section):
    """The whole file."""

    model: ModelSpec = Field(description="The model that answers.")
    cost: CostSpec = Field(description="What a saved layer is worth.")
    domains: dict[str, DomainSpec] = Field(
        min_length=1, description="The business domains, each with a rollout of its own."
    )

    @field_validator("domains")
    @classmethod
    def _names(cls, domains: dict[str, DomainSpec]) -> dict[str, DomainSpec]:
        _raise(
            [
                (
                    (name,),
                    "a domain's name has 1 to 100 characters: a-z, 0-9, _ and -, and starts with "
                    "a letter or digit",
                )
                for name in domains
                if not _DOMAIN_NAME.fullmatch(name)
            ]
        )
        return domains
