"""The schema of rollout.yaml: a domain and the whole file, made of `sections`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rollout.control.durations import FreezeWindow
from rollout.control.sections import (
    ApprovalSpec,
    CostSpec,
    Duration,
    ModelSpec,
    Problem,
    Section,
    TaskSpec,
    TextSpec,
    raise_all,
)
from rollout.control.steering import (
    AgreementSpec,
    EvidenceSpec,
    LeverSpec,
    RollbackSpec,
    ShadowSpec,
)

__all__ = ["NEVER_EARLY", "CostSpec", "DomainSpec", "ModelSpec", "Spec"]

NEVER_EARLY = "never_early"
"""The guard of a label that may not be answered early at all."""

_DOMAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


class DomainSpec(Section):
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
    levers: LeverSpec = Field(default=LeverSpec(), description="What is moved first.")
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
        raise_all(problems)
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
        raise_all(problems)
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
        if self.evidence.safe_share not in self.stages:
            problems.append(
                (
                    ("evidence", "safe_share"),
                    f"{self.evidence.safe_share:g} is not a stage; stages are {known}",
                )
            )
        raise_all(problems)
        return self

    @property
    def freeze_windows(self) -> tuple[FreezeWindow, ...]:
        """`freeze`, parsed."""
        return tuple(FreezeWindow.parse(window) for window in self.freeze)

    @property
    def promotion_alpha(self) -> float:
        """What each promotion of a straight climb uses of alpha; as much is kept in reserve."""
        return self.agreement.alpha / len(self.stages)

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


class Spec(Section):
    """The whole file."""

    model: ModelSpec = Field(description="The model that answers.")
    cost: CostSpec = Field(description="What a saved layer is worth.")
    domains: dict[str, DomainSpec] = Field(
        min_length=1, description="The business domains, each with a rollout of its own."
    )

    @field_validator("domains")
    @classmethod
    def _names(cls, domains: dict[str, DomainSpec]) -> dict[str, DomainSpec]:
        raise_all(
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
