"""An outcome on its way to the store: a value, JSON both ways, so that it can wait in a spool."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from rollout.store.models import Trace
from rollout.values import Arm, DepthTrace, ExitPoint


@dataclass(frozen=True)
class TraceRecord:
    """A depth trace as the store keeps it: one array per field, shallowest exit first.

    A confidence that is not a finite number is kept as null (JSON has no NaN, and PostgreSQL
    refuses it), and comes back as NaN, which takes no exit.
    """

    heads: str
    exit_layers: tuple[int, ...]
    answers: tuple[int, ...]
    confidences: tuple[float | None, ...]
    full_answer: int
    depth: int

    @classmethod
    def from_trace(cls, trace: DepthTrace, heads: str) -> TraceRecord:
        return cls(
            heads=heads,
            exit_layers=tuple(point.layer for point in trace.exits),
            answers=tuple(point.answer for point in trace.exits),
            confidences=tuple(_finite(point.confidence) for point in trace.exits),
            full_answer=trace.full_answer,
            depth=trace.depth,
        )

    @classmethod
    def from_model(cls, row: Trace | Row[Any]) -> TraceRecord:
        return cls(
            heads=row.heads,
            exit_layers=tuple(row.exit_layers),
            answers=tuple(row.answers),
            confidences=tuple(row.confidences),
            full_answer=row.full_answer,
            depth=row.depth,
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TraceRecord:
        """Raises KeyError or TypeError where a field is missing or of the wrong kind."""
        return cls(
            heads=str(value["heads"]),
            exit_layers=tuple(value["exit_layers"]),
            answers=tuple(value["answers"]),
            confidences=tuple(value["confidences"]),
            full_answer=int(value["full_answer"]),
            depth=int(value["depth"]),
        )

    def to_trace(self) -> DepthTrace:
        points = zip(self.exit_layers, self.answers, self.confidences, strict=True)
        return DepthTrace(
            exits=tuple(
                ExitPoint(layer, answer, math.nan if confidence is None else confidence)
                for layer, answer, confidence in points
            ),
            full_answer=self.full_answer,
            depth=self.depth,
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "confidences": [_finite(value) for value in self.confidences]}

    def to_row(self, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Column values, given those of the trace's outcome."""
        return {
            "request_id": outcome["request_id"],
            "domain": outcome["domain"],
            "created_at": outcome["created_at"],
            "heads": self.heads,
            "exit_layers": list(self.exit_layers),
            "answers": list(self.answers),
            "confidences": [_finite(value) for value in self.confidences],
            "full_answer": self.full_answer,
            "depth": self.depth,
        }


@dataclass(frozen=True, kw_only=True)
class OutcomeRecord:
    """All columns of `models.Outcome` (meanings there) that are known when a request is answered.

    Raises:
        ValueError: `created_at` has no time zone.
    """

    request_id: str
    request_key_hash: str
    domain: str
    created_at: datetime
    arm: Arm
    stage_weight: float
    policy_version: int | None = None
    answer: str
    full_answer: str | None = None
    exit_layer: int | None = None
    policy_exit_layer: int | None = None
    confidence: float | None = None
    threshold: float | None = None
    fallback_reason: str | None = None
    depth: int
    layers_run: int
    shadow_layers: int = 0
    probes: int = 0
    probe_cost: float = 0.0
    layer_ms: float = 0.0
    shadow: bool = False
    inclusion_probability: float
    agreement: float | None = None
    not_comparable: str | None = None
    prompt_tokens: int
    batch_rows: int
    latency_ms: float
    model_revision: str
    worker: str
    text_hash: str
    text: str | None = None
    trace: TraceRecord | None = None

    def __post_init__(self) -> None:
        if self.created_at.tzinfo is None:
            raise ValueError(f"request {self.request_id}: created_at needs a time zone")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OutcomeRecord:
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: a field is missing, unknown or unreadable.
        """
        trace = value.get("trace")
        return cls(
            **{
                **value,
                "created_at": datetime.fromisoformat(value["created_at"]),
                "trace": None if trace is None else TraceRecord.from_json(trace),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the time in ISO 8601; not-a-number as null."""
        return {
            **self._plain(),
            "created_at": self.created_at.isoformat(),
            "trace": None if self.trace is None else self.trace.to_json(),
        }

    def to_row(self) -> dict[str, Any]:
        """Column values that both databases take.

        PostgreSQL holds neither NUL characters nor half a surrogate pair, both of which JSON can
        bring in; free text over its column's length would lose the whole row.
        """
        row = self._plain()
        for name in ("fallback_reason", "not_comparable", "worker"):
            if row[name] is not None:
                row[name] = row[name][:200]
        return {
            name: _storable(value) if isinstance(value, str) else value
            for name, value in row.items()
        }

    def _plain(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["trace"]
        return {
            name: _finite(value) if isinstance(value, float) else value
            for name, value in values.items()
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _storable(value: str) -> str:
    return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
