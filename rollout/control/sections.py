"""The sections of rollout.yaml: every key, its default and its meaning, in one place."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rollout.control.durations import format_duration, parse_duration

Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)
]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]


Problem = tuple[tuple[str | int, ...], str]
"""Where, below the section that is checked, and what is wrong."""


def raise_all(problems: list[Problem]) -> None:
    """Hand all problems of a section to `load_spec`, each with the key it is at."""
    if problems:
        shown = "; ".join(f"{'.'.join(map(str, at))}: {wrong}" for at, wrong in problems)
        raise PydanticCustomError("spec", "{shown}", {"shown": shown, "problems": problems})


class Section(BaseModel):
    """Knows its keys, refuses others, never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSpec(Section):
    """The model that answers."""

    id: str = Field(min_length=1, description="Folder of the checkpoint (safetensors).")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="auto, cpu, mps, cuda or cuda:N.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Number format of the weights; auto: float32 on CPU, bfloat16 on CUDA.",
    )
    quantization: Literal["none"] = Field(default="none", description="Only none so far.")


class CostSpec(Section):
    """What a saved layer is worth."""

    currency: str = Field(min_length=1, description="Currency of the report, such as JPY.")
    accelerator_hour: float = Field(ge=0.0, description="Price of one accelerator hour.")
    mean_layer_ms: Literal["measured"] | Annotated[float, Field(gt=0.0)] = Field(
        default="measured",
        description="Mean time of one layer for one request, ms; measured: by calibration.",
    )


class TaskSpec(Section):
    """What is asked of the model."""

    kind: Literal["choice"] = Field(default="choice", description="choice: one label of a list.")
    labels: str = Field(min_length=1, description="File with one label per line.")
    template: str = Field(min_length=1, description="Jinja2 file that makes the prompt.")


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
        raise_all(problems)
        return self


class ShadowSpec(Section):
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
        raise_all(problems)
        return self


class ApprovalSpec(Section):
    """Where a person must agree."""

    before: tuple[float, ...] = Field(
        default=(), description="Stages entered only after a person's `rollout promote`."
    )


class RollbackSpec(Section):
    """What happens when agreement is lost."""

    to: float = Field(default=0.0, description="The stage to fall back to.")
    cooldown: Duration = Field(
        default=timedelta(hours=24), description="No promotion for this long after a rollback."
    )


class EvidenceSpec(Section):
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


class TextSpec(Section):
    """Whether customers' texts are kept."""

    store: bool = Field(default=False, description="Keep prompts; otherwise hashes only.")
    retention: Duration = Field(
        default=timedelta(days=30), description="Kept texts are purged after this."
    )
