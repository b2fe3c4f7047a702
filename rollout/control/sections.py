"""The sections of rollout.yaml on what is run; those on how it rolls out are in `steering`.

Every key, its default and its meaning stand in these two places alone.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)
from pydantic_core import PydanticCustomError

from rollout.control.durations import format_duration, parse_duration

Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)
]

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
    quantization: Literal["none", "int8", "int4"] = Field(
        default="none",
        description="Number format of the decoder layers' weights; a quantised model has its own "
        "revision and needs its own calibration.",
    )


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


class ApprovalSpec(Section):
    """Where a person must agree."""

    before: tuple[float, ...] = Field(
        default=(), description="Stages entered only after a person's `rollout promote`."
    )


class TextSpec(Section):
    """Whether customers' texts are kept."""

    store: bool = Field(default=False, description="Keep prompts; otherwise hashes only.")
    retention: Duration = Field(
        default=timedelta(days=30), description="Kept texts are purged after this."
    )
