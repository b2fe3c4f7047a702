"""What is written down of an answered request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rollout.engine.choice import Answer, RowResult
from rollout.serving.domain_engine import DomainEngine
from rollout.serving.messages import ServedAnswer, ServeRequest, digest
from rollout.store.models import Outcome
from rollout.store.records import OutcomeRecord, TraceRecord
from rollout.values import Arm, replay


@dataclass(frozen=True)
class Assigned:
    """A request with its arm, at `place` of the batch that was delivered."""

    place: int
    request: ServeRequest
    at: datetime
    prompt: list[list[int]]
    arm: Arm
    shadow: bool


def served(engine: DomainEngine, row: Assigned, answer: Answer) -> ServedAnswer:
    """The answer as the caller gets it."""
    return ServedAnswer(
        row.request.request_id,
        row.request.domain,
        engine.task.labels[answer.label],
        row.arm,
        answer.exit_layer,
        answer.layers_run,
        engine.task.loaded.depth,
        answer.confidence,
        engine.policy.version if engine.policy is not None else None,
    )


def outcome_of(
    engine: DomainEngine,
    row: Assigned,
    result: RowResult,
    *,
    latency_ms: float,
    batch_rows: int,
    worker: str,
) -> OutcomeRecord:
    """The row that is stored of an answered request.

    A control row is judged by replaying its trace under the live policy, an early row by the
    answer it was given.
    """
    policy, heads, labels = engine.policy, engine.heads, engine.task.labels
    assert result.answer is not None
    exit_layer, confidence = result.answer.exit_layer, result.answer.confidence
    policy_exit, agreement, not_comparable, trace = exit_layer, None, None, None
    if policy is not None and result.trace is not None:
        trace = TraceRecord.from_trace(result.trace, policy.heads)
        if row.arm == "control":
            replayed = replay(result.trace, policy)
            policy_exit, agreement = replayed.exit_layer, float(replayed.agrees)
        else:
            agreement = float(result.answer.label == result.trace.full_answer)
    elif row.shadow:
        not_comparable = result.fault or "the shadow did not reach full depth"
    fallback_reason = None
    if row.arm == "early" and exit_layer is None:
        fallback_reason = result.fault or "no exit was confident enough"
    elif row.arm == "control":
        fallback_reason = engine.full_depth_reason
    threshold = None
    if policy is not None and policy.exit_layers:
        asked = policy.exit_layers.index(policy_exit) if policy_exit is not None else -1
        threshold = policy.thresholds[asked]
        if confidence is None and result.trace is not None:
            confidence = result.trace.exits[asked].confidence
    request = row.request
    key = f"{request.domain}\0{request.request_key or request.request_id}"
    return OutcomeRecord(
        request_id=request.request_id,
        request_key_hash=digest(key),
        domain=request.domain,
        created_at=row.at,
        arm=row.arm,
        stage_weight=engine.stage_weight,
        policy_version=policy.version if policy is not None else None,
        answer=labels[result.answer.label],
        full_answer=None if result.trace is None else labels[result.trace.full_answer],
        exit_layer=exit_layer,
        policy_exit_layer=policy_exit,
        confidence=confidence,
        threshold=threshold,
        fallback_reason=fallback_reason,
        depth=engine.task.loaded.depth,
        layers_run=result.answer.layers_run,
        shadow_layers=result.shadow_layers,
        probes=result.probes,
        probe_cost=policy.probe_cost if policy is not None else 0.0,
        layer_ms=policy.layer_ms if policy is not None else 0.0,
        shadow=row.shadow,
        inclusion_probability=1.0 if row.arm == "control" else engine.shadow_rate,
        agreement=agreement,
        not_comparable=not_comparable,
        prompt_tokens=result.prompt_tokens,
        batch_rows=batch_rows,
        latency_ms=latency_ms,
        model_revision=engine.task.loaded.revision,
        worker=worker,
        text_hash=digest(request.text),
        text=request.text if engine.spec.text.store else None,
        trace=trace if heads is not None else None,
    )


def answered_again(row: Outcome) -> ServedAnswer:
    """The answer that a stored request was given."""
    return ServedAnswer(
        row.request_id,
        row.domain,
        row.answer,
        "early" if row.arm == "early" else "control",
        row.exit_layer,
        row.layers_run,
        row.depth,
        row.confidence,
        row.policy_version,
    )
