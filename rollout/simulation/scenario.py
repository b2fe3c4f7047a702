"""The schema of a scenario: what traffic and the true agreement do over time, and who is there.

The truth is what no controller sees; it is told by comparisons only.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from rollout.control.sections import Duration, Problem, Section, raise_all
from rollout.control.spec import load_section

MOST_TICKS = 200_000
SHIPPED = files("rollout.simulation").joinpath("scenarios")

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class TrafficTruth(Section):
    """How many requests come."""

    per_hour: float = Field(gt=0.0, le=1e6, description="Mean requests an hour.")
    daily: Share = Field(
        default=0.0,
        description="Swing of the day: 0.5 is half more than the mean at 15:00, half less at 3:00.",
    )
    weekend: float = Field(
        default=1.0, ge=0.0, le=10.0, description="Factor on Saturday and Sunday."
    )


class LabelTruth(Section):
    """What the live policy does with the requests of one label."""

    share: float = Field(gt=0.0, description="Part of the traffic; parts are scaled to sum to 1.")
    agreement: Share = Field(
        description="Share of this label's requests whose policy answer equals the full-depth one; "
        "requests without an exit agree."
    )
    exit_share: Share = Field(description="Share of this label's requests that exit early.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if 1.0 - self.agreement > self.exit_share + 1e-12:
            raise_all(
                [
                    (
                        ("agreement",),
                        f"{self.agreement:g} is impossible: only early exits can disagree, and "
                        f"exit_share is {self.exit_share:g}; at least {1 - self.exit_share:g}",
                    )
                ]
            )
        return self


class Event(Section):
    """A change of the truth, from `at` on."""

    at: Duration = Field(description="When, after the start.")
    over: Duration = Field(
        default=timedelta(0), description="Takes this long, in a straight line; 0s: at once."
    )
    last: Duration | None = Field(
        default=None, description="Everything is as before after this long; without: it stays."
    )
    every: Duration | None = Field(default=None, description="Comes again this often.")
    labels: tuple[str, ...] = Field(default=(), description="These labels only; without: all.")
    agreement: Share | None = Field(default=None, description="The true agreement becomes this.")
    exit_share: Share | None = Field(default=None, description="The exit share becomes this.")
    traffic: float | None = Field(
        default=None, ge=0.0, le=1000.0, description="Requests are multiplied by this."
    )
    outage: bool = Field(
        default=False, description="Requests are answered, but no comparison arrives."
    )
    calibrate: bool = Field(
        default=False,
        description="A person calibrates: a new policy version starts, shadow-only. What it is "
        "worth is said by agreement and exit_share of this event or others.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        problems: list[Problem] = []
        changes = (self.agreement, self.exit_share, self.traffic)
        if all(change is None for change in changes) and not (self.outage or self.calibrate):
            problems.append(
                (
                    ("at",),
                    "the event changes nothing; give it agreement, exit_share, traffic, outage or "
                    "calibrate",
                )
            )
        if self.every is not None and (self.last is None or self.last >= self.every):
            problems.append((("every",), "needs a shorter `last`: how long it is so each time"))
        if self.every is not None and self.calibrate:
            problems.append((("calibrate",), "does not come again; write one event for each"))
        if self.last is not None and self.last <= self.over:
            problems.append((("last",), "must be longer than `over`"))
        raise_all(problems)
        return self


class People(Section):
    """Who answers when the rollout asks for a person."""

    answer_after: Duration | None = Field(
        default=timedelta(hours=4),
        description="A person approves a waiting stage, or unlocks a locked domain, after this "
        "long; null: nobody ever does.",
    )


class Scenario(Section):
    """One synthetic future."""

    shows: str = Field(default="", description="What this future asks of a controller.")
    duration: Duration = Field(description="Simulated time.")
    start: datetime = Field(
        default=datetime(2026, 1, 5, tzinfo=UTC), description="With a zone. Default: a Monday."
    )
    tick: Duration = Field(
        default=timedelta(minutes=30), description="How often the controller decides."
    )
    traffic: TrafficTruth = Field(description="How many requests come.")
    labels: dict[str, LabelTruth] = Field(
        min_length=1, description="The truth at the start, by the full-depth answer."
    )
    spared: float = Field(
        default=0.5, gt=0.0, lt=1.0, description="Share of the layers that an early exit spares."
    )
    full_depth_ms: float = Field(
        default=500.0, gt=0.0, description="Accelerator time of a full-depth request, ms."
    )
    people: People = Field(default=People(), description="Who answers.")
    events: tuple[Event, ...] = Field(default=(), description="What changes, in order.")

    @field_validator("start")
    @classmethod
    def _aware(cls, start: datetime) -> datetime:
        if start.tzinfo is None:
            raise ValueError("needs a time zone, such as 2026-01-05T00:00:00Z")
        return start

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems: list[Problem] = []
        if self.tick <= timedelta(0):
            problems.append((("tick",), "must be longer than 0s"))
        elif self.duration < 2 * self.tick:
            problems.append((("duration",), "is shorter than two ticks"))
        elif self.duration / self.tick > MOST_TICKS:
            problems.append((("tick",), f"makes more than {MOST_TICKS:,} ticks; take a longer one"))
        for index, event in enumerate(self.events):
            if event.at >= self.duration:
                problems.append((("events", index, "at"), "lies after the end (`duration`)"))
            for place, label in enumerate(event.labels):
                if label not in self.labels:
                    known = ", ".join(self.labels)
                    problems.append(
                        (
                            ("events", index, "labels", place),
                            f"{label} is none of this scenario's labels: {known}",
                        )
                    )
        raise_all(problems)
        return self


def load_scenario(path: Path) -> Scenario:
    """Raises SpecError with every error's file, line and key."""
    return load_section(
        path, Scenario, f"name a file, or one of the shipped ones: {', '.join(shipped())}"
    )


def shipped() -> list[str]:
    """Names of the scenarios that come with the program."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in SHIPPED.iterdir()
        if entry.name.endswith(".yaml")
    )


def load_shipped(name: str) -> Scenario:
    """Raises SpecError where there is no such scenario."""
    with as_file(SHIPPED.joinpath(f"{name}.yaml")) as path:
        return load_scenario(path)
