"""The one form of a benchmark's result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measured:
    """What was measured, the bar, and whether it holds.

    Attributes:
        bar: Such as `<= 1.02`.
        figure: An SVG file, kept beside the result; no part of the JSON.
    """

    name: str
    value: float
    unit: str
    bar: str
    holds: bool
    details: dict[str, Any] = field(default_factory=dict)
    figure: str = field(default="", repr=False)

    def to_json(self) -> str:
        values = asdict(self)
        del values["figure"]
        return json.dumps(values, indent=2)

    def to_text(self) -> str:
        verdict = "holds" if self.holds else "does NOT hold"
        lines = [f"{self.name}: {self.value:.3f} ({self.unit}), bar {self.bar}: {verdict}"]
        lines += [f"  {name}: {value}" for name, value in self.details.items()]
        return "\n".join(lines)
