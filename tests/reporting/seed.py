"""A week of one domain as the store would hold it: promoted, hit by a drop, rolled back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rollout.control.schema import Spec
from rollout.control.spec import spec_hash
from rollout.control.state import Comparison, DomainState, Monitor
from rollout.store import catalog, ledger
from rollout.store.models import DecisionRow, Domain, Incident, RolloutState
from rollout.store.outcomes import insert_outcomes
from rollout.store.records import OutcomeRecord, TraceRecord
from rollout.store.session import Store
from rollout.values import ExitPolicy

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
DEPTH = 8
EXITS = (2, 4, 6)
LABELS = ("invoice_copy", "refund", "payment_failed", "change_address", "cancel")
HOSTILE = '<script>alert("x")</script> & "my invoice" <img src=x onerror=alert(1)>'


def make_spec(**domain: Any) -> Spec:
    """A spec of one domain, billing, in yen."""
    task = {"labels": "labels.txt", "template": "prompt.j2"}
    return Spec.model_validate(
        {
            "model": {"id": "./model"},
            "cost": {"currency": "JPY", "accelerator_hour": 450},
            "domains": {"billing": {"task": task, **domain}},
        }
    )


def outcome(request_id: str, at: datetime, **columns: Any) -> OutcomeRecord:
    """A control request that nobody compared, with `columns` in place of its own."""
    record = OutcomeRecord(
        request_id=request_id,
        request_key_hash="0" * 64,
        domain="billing",
        created_at=at,
        arm="control",
        stage_weight=0.0,
        policy_version=1,
        answer="refund",
        full_answer="refund",
        depth=DEPTH,
        layers_run=DEPTH,
        inclusion_probability=1.0,
        layer_ms=12.5,
        probe_cost=0.05,
        prompt_tokens=40,
        batch_rows=4,
        latency_ms=110.0,
        model_revision="r1",
        worker="w1",
        text_hash="ab12cd34ef56ab12",
    )
    return replace(record, **columns)


def early(request_id: str, at: datetime, exit_layer: int | None, **columns: Any) -> OutcomeRecord:
    """An early-arm request that nobody compared."""
    return outcome(
        request_id,
        at,
        **{
            "arm": "early",
            "stage_weight": 0.25,
            "exit_layer": exit_layer,
            "layers_run": exit_layer or DEPTH,
            "full_answer": None if exit_layer else "refund",
            "probes": 2,
            "confidence": 0.97,
            "inclusion_probability": 0.1,
            **columns,
        },
    )


def shadowed(request_id: str, at: datetime, exit_layer: int, agrees: bool, **columns: Any) -> Any:
    """An early answer that was continued to full depth."""
    return early(
        request_id,
        at,
        exit_layer,
        **{
            "shadow": True,
            "shadow_layers": DEPTH - exit_layer,
            "agreement": float(agrees),
            "answer": "refund" if agrees else "cancel",
            "full_answer": "refund",
            **columns,
        },
    )


def prepare(store: Store, spec: Spec, now: datetime, stage: int = 0) -> None:
    """Apply every domain of the spec, with a policy and a state at `stage`."""
    with store.write() as session:
        for name, domain_spec in spec.domains.items():
            session.add(
                Domain(
                    name=name,
                    spec=domain_spec.to_json(),
                    spec_hash=spec_hash(domain_spec),
                    labels=list(LABELS),
                    template="{{ text }}",
                    applied_at=now,
                    applied_by="ada",
                )
            )
            session.flush()
            policy = ExitPolicy(name, 1, EXITS, (0.95, 0.93, 0.9), "f" * 64, "margin", "r1", DEPTH)
            catalog.save_policy(session, policy, LABELS, {}, "ada", now)
            state = replace(DomainState.start(domain_spec, now, 1), stage=stage)
            ledger.replace_state(session, name, state, now)


def add(store: Store, rows: Sequence[OutcomeRecord]) -> None:
    with store.write() as session:
        insert_outcomes(session, rows)


def decide(
    store: Store, at: datetime, action: str, before: int, after: int, reason: str, **columns: Any
) -> None:
    """Write a ledger row as the controller would."""
    row = {
        "domain": "billing",
        "at": at,
        "last_at": at,
        "repeats": 1,
        "action": action,
        "rule": action,
        "reason": reason,
        "actor": "controller",
        "evidence": {},
        "state_before": {"stage": before, "mode": "active"},
        "state_after": {"stage": after, "mode": "active"},
        "policy_version": 1,
        "spec_hash": "0" * 64,
    }
    with store.write() as session:
        session.add(DecisionRow(**{**row, **columns}))


def seed_week(store: Store, spec: Spec, monday: datetime = MONDAY, per_hour: int = 24) -> datetime:
    """Six days: promoted through the stages, worse traffic on Thursday noon, rolled back.

    Returns the moment of the rollback.
    """
    random_numbers = random.Random(7)
    domain_spec = spec.domains["billing"]
    stages = domain_spec.stages
    prepare(store, spec, monday)
    entered = [monday + timedelta(hours=hours) for hours in (0, 14, 26, 38, 52, 66)]
    drop = monday + timedelta(hours=84)
    rollback = drop + timedelta(hours=5)
    rows = []
    for hour in range(140):
        start = monday + timedelta(hours=hour)
        stage = 0 if start >= rollback else sum(start >= at for at in entered) - 1
        busy = 0.45 + 0.55 * (8 <= start.hour < 20)
        for index in range(int(per_hour * busy)):
            at = start + timedelta(
                seconds=3600 * (index + random_numbers.random() * 0.9) / per_hour
            )
            error = 0.13 if at >= drop else 0.008
            rows.append(
                _request(random_numbers, f"r{hour:03d}-{index:03d}", at, stages[stage], error)
            )
    add(store, rows)
    for stage in range(1, len(stages)):
        decide(
            store,
            entered[stage] - timedelta(hours=11),
            "hold",
            stage - 1,
            stage - 1,
            f"{150 + 9 * stage} of about 241 comparisons needed to certify 95% at this stage",
            last_at=entered[stage] - timedelta(minutes=1),
            repeats=660,
        )
        decide(
            store,
            entered[stage],
            "promote",
            stage - 1,
            stage,
            f"agreement is certified above 95%: {2 + stage} mismatches in {238 + 17 * stage} "
            "comparisons since this stage began",
        )
    summary = "agreement fell: 19 mismatches in the last 143 comparisons, where 2% are tolerated"
    decide(store, rollback, "roll_back", len(stages) - 1, 0, summary)
    with store.write() as session:
        session.add(
            Incident(domain="billing", opened_at=rollback, kind="roll_back", summary=summary)
        )
        monitor = Monitor.start(domain_spec).update(
            [Comparison(rollback, n % 60 != 0, True, "refund") for n in range(123)], 123
        )
        state = replace(
            DomainState.start(domain_spec, rollback, 1),
            cooldown_until=rollback + timedelta(hours=24),
            monitor=monitor,
        )
        standing = session.get(RolloutState, "billing")
        assert standing is not None
        standing.state = state.to_json()
        standing.updated_at = monday + timedelta(hours=140)
        standing.version = 9
    decide(
        store,
        rollback + timedelta(minutes=1),
        "hold",
        0,
        0,
        "cooling down after the rollback until Saturday 17:00 UTC",
        last_at=rollback + timedelta(hours=24),
        repeats=1439,
    )
    return rollback


def _request(
    random_numbers: random.Random, request_id: str, at: datetime, weight: float, error: float
) -> OutcomeRecord:
    exit_layer = random_numbers.choices((*EXITS, None), (0.34, 0.28, 0.16, 0.22))[0]
    wrong = exit_layer is not None and random_numbers.random() < error
    probes = len([layer for layer in EXITS if layer <= (exit_layer or DEPTH)])
    confidence = round(0.9 + 0.099 * random_numbers.random(), 4)
    latency = 14.0 * (exit_layer or DEPTH) + 6 * random_numbers.random()
    label = random_numbers.choice(LABELS)
    other = random_numbers.choice([name for name in LABELS if name != label])
    if random_numbers.random() >= weight:
        trace = TraceRecord(
            "f" * 64,
            EXITS,
            tuple(LABELS.index(other if wrong else label) for _ in EXITS),
            (confidence,) * len(EXITS),
            LABELS.index(label),
            DEPTH,
        )
        return outcome(
            request_id,
            at,
            answer=label,
            full_answer=label,
            policy_exit_layer=exit_layer,
            agreement=float(not wrong),
            probes=len(EXITS),
            stage_weight=weight,
            latency_ms=14.0 * DEPTH + 6 * random_numbers.random(),
            trace=trace,
        )
    rate = 0.1 if weight < 1 else 0.3
    shadow = random_numbers.random() < rate
    return early(
        request_id,
        at,
        exit_layer,
        stage_weight=weight,
        answer=other if wrong else label,
        full_answer=label if shadow or exit_layer is None else None,
        probes=probes,
        confidence=confidence,
        threshold=0.9,
        latency_ms=latency,
        shadow=shadow,
        shadow_layers=DEPTH - (exit_layer or DEPTH) if shadow else 0,
        inclusion_probability=rate,
        agreement=float(not wrong) if shadow else None,
        text=HOSTILE if wrong and shadow else None,
    )
