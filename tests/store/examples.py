"""Rows that the store's and the request path's tests are made of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rollout.control.spec import DomainSpec, spec_hash
from rollout.store.models import Domain
from rollout.store.records import OutcomeRecord, TraceRecord
from rollout.store.session import Store
from rollout.values import DepthTrace, ExitPoint, ExitPolicy

NOW = datetime(2026, 11, 16, 9, 30, tzinfo=UTC)
HEADS = "ab" * 32
LABELS = ("invoice", "refund", "fraud_report")


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def a_trace(confidence: float = 0.9, full_answer: int = 1) -> TraceRecord:
    exits = (ExitPoint(2, 0, 0.4), ExitPoint(4, 1, confidence))
    return TraceRecord.from_trace(DepthTrace(exits, full_answer, depth=8), HEADS)


def an_outcome(request_id: str, **changes: Any) -> OutcomeRecord:
    values: dict[str, Any] = {
        "request_id": request_id,
        "request_key_hash": "cd" * 32,
        "domain": "billing",
        "created_at": NOW,
        "arm": "control",
        "stage_weight": 0.05,
        "policy_version": 1,
        "answer": "refund",
        "full_answer": "refund",
        "depth": 8,
        "layers_run": 8,
        "inclusion_probability": 1.0,
        "agreement": 1.0,
        "prompt_tokens": 30,
        "batch_rows": 4,
        "latency_ms": 12.5,
        "model_revision": "ef" * 32,
        "worker": "serve@host",
        "text_hash": "01" * 32,
    }
    return OutcomeRecord(**{**values, **changes})


def a_policy(**changes: Any) -> ExitPolicy:
    values: dict[str, Any] = {
        "domain": "billing",
        "version": 1,
        "exit_layers": (2, 4),
        "thresholds": (0.95, 0.9),
        "heads": HEADS,
        "criterion": "top_probability",
        "model_revision": "ef" * 32,
        "depth": 8,
        "never_early": frozenset({2}),
        "probe_cost": 0.02,
        "layer_ms": 1.5,
    }
    return ExitPolicy(**{**values, **changes})


SPEC = DomainSpec.from_json(
    {"task": {"labels": "labels.txt", "template": "prompt.j2"}, "stages": [0, 0.1, 0.5, 1]}
)


def with_domain(store: Store, name: str = "billing", spec: DomainSpec = SPEC) -> Store:
    """The store, with a domain applied."""
    with store.write() as session:
        session.add(
            Domain(
                name=name,
                spec=spec.to_json(),
                spec_hash=spec_hash(spec),
                labels=list(LABELS),
                template="{{ text }}",
                applied_at=NOW,
                applied_by="tester",
            )
        )
    return store
