"""A spec and futures that are small enough to be walked through many times."""

from __future__ import annotations

from typing import Any

from rollout.control.schema import DomainSpec
from rollout.simulation.scenario import Scenario

TASK = {"labels": "labels.txt", "template": "prompt.j2"}
LABELS = {
    "invoice": {"share": 0.7, "agreement": 0.992, "exit_share": 0.7},
    "refund": {"share": 0.3, "agreement": 0.988, "exit_share": 0.5},
}


def a_spec(**keys: Any) -> DomainSpec:
    return DomainSpec.from_json({"task": TASK} | keys)


def a_future(**keys: Any) -> Scenario:
    """Five days at 120 requests an hour; healthy."""
    given = {"duration": "5d", "tick": "1h", "traffic": {"per_hour": 120}, "labels": LABELS}
    return Scenario.model_validate(given | keys)


def all_labels(agreement: float) -> dict[str, dict[str, float]]:
    return {name: label | {"agreement": agreement} for name, label in LABELS.items()}
