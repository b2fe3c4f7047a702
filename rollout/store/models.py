"""The tables. Counts, labels and hashes always; customer text only where the domain asks for it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite only autoincrements INTEGER; PostgreSQL needs 64 bits for years of outcomes.
RowId = BigInteger().with_variant(Integer, "sqlite")
Json = JSON().with_variant(JSONB, "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, UTC in the store and in Python, also on SQLite, which keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}: give it a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {
        datetime: UtcDateTime,
        dict[str, Any]: Json,
        list[Any]: Json,
    }


class Domain(Base):
    """A business domain as last applied: from rollout.yaml and the two files it names."""

    __tablename__ = "domains"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    spec: Mapped[dict[str, Any]]
    spec_hash: Mapped[str] = mapped_column(String(64))
    labels: Mapped[list[Any]]
    template: Mapped[str] = mapped_column(Text)
    applied_at: Mapped[datetime]
    applied_by: Mapped[str] = mapped_column(String(200))


class ExitPolicyRow(Base):
    """One immutable version of a domain's exit policy, as `rollout.values.ExitPolicy` reads it."""

    __tablename__ = "exit_policies"
    __table_args__ = (UniqueConstraint("domain", "version"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    domain: Mapped[str] = mapped_column(ForeignKey("domains.name"))
    version: Mapped[int]
    exit_layers: Mapped[list[Any]]
    thresholds: Mapped[list[Any]]
    never_early: Mapped[list[Any]]
    labels: Mapped[list[Any]]
    heads: Mapped[str] = mapped_column(String(64))
    criterion: Mapped[str] = mapped_column(String(50))
    model_revision: Mapped[str] = mapped_column(String(64))
    depth: Mapped[int]
    probe_cost: Mapped[float]
    layer_ms: Mapped[float]
    certificate: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))


class RolloutState(Base):
    """Where a domain stands. `version` is the optimistic lock: writes compare and raise it."""

    __tablename__ = "rollout_states"

    domain: Mapped[str] = mapped_column(ForeignKey("domains.name"), primary_key=True)
    version: Mapped[int]
    stage: Mapped[int]
    mode: Mapped[str] = mapped_column(String(20))
    policy_version: Mapped[int | None]
    state: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime]


class Outcome(Base):
    """One row per request, written once (unique request id).

    Layers are counted per request. `layers_run` were computed for the answer, `shadow_layers` only
    for the comparison. `agreement` compares the policy's answer with full depth: in the early arm
    the answer given; in the control arm the answer that replaying the trace yields. It is null
    where nothing was compared; `not_comparable` then says why a selected shadow has none.
    `inclusion_probability` is the chance that this request was compared: 1 in the control arm, the
    shadow rate in the early arm.
    """

    __tablename__ = "outcomes"
    __table_args__ = (
        UniqueConstraint("request_id"),
        Index("ix_outcomes_domain_created_at", "domain", "created_at"),
        Index(
            "ix_outcomes_unmonitored",
            "domain",
            "id",
            postgresql_where=text("NOT monitored"),
            sqlite_where=text("NOT monitored"),
        ),
        Index(
            "ix_outcomes_unmonitored_replays",
            "domain",
            "id",
            postgresql_where=text("replay_matches IS NOT NULL AND NOT replay_monitored"),
            sqlite_where=text("replay_matches IS NOT NULL AND NOT replay_monitored"),
        ),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    request_id: Mapped[str] = mapped_column(String(200))
    request_key_hash: Mapped[str] = mapped_column(String(64))
    domain: Mapped[str] = mapped_column(ForeignKey("domains.name"))
    created_at: Mapped[datetime]
    arm: Mapped[str] = mapped_column(String(10))
    stage_weight: Mapped[float]
    policy_version: Mapped[int | None]
    answer: Mapped[str] = mapped_column(String(200))
    full_answer: Mapped[str | None] = mapped_column(String(200))
    exit_layer: Mapped[int | None]
    policy_exit_layer: Mapped[int | None]
    confidence: Mapped[float | None]
    threshold: Mapped[float | None]
    fallback_reason: Mapped[str | None] = mapped_column(String(200))
    depth: Mapped[int]
    layers_run: Mapped[int]
    shadow_layers: Mapped[int]
    probes: Mapped[int]
    probe_cost: Mapped[float]
    layer_ms: Mapped[float]
    shadow: Mapped[bool]
    inclusion_probability: Mapped[float]
    agreement: Mapped[float | None]
    not_comparable: Mapped[str | None] = mapped_column(String(200))
    replay_answer: Mapped[str | None] = mapped_column(String(200))
    replay_matches: Mapped[bool | None]
    replay_layers: Mapped[int] = mapped_column(default=0, server_default="0")
    prompt_tokens: Mapped[int]
    batch_rows: Mapped[int]
    latency_ms: Mapped[float]
    model_revision: Mapped[str] = mapped_column(String(64))
    worker: Mapped[str] = mapped_column(String(200))
    text_hash: Mapped[str] = mapped_column(String(64))
    text: Mapped[str | None] = mapped_column("text", Text)
    monitored: Mapped[bool] = mapped_column(default=False, server_default=false())
    replay_monitored: Mapped[bool] = mapped_column(default=False, server_default=false())


class Trace(Base):
    """The depth trace of one full-depth pass; label indices into the policy's labels."""

    __tablename__ = "traces"

    request_id: Mapped[str] = mapped_column(
        ForeignKey("outcomes.request_id", ondelete="CASCADE"), primary_key=True
    )
    domain: Mapped[str] = mapped_column(String(100))
    heads: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    exit_layers: Mapped[list[Any]]
    answers: Mapped[list[Any]]
    confidences: Mapped[list[Any]]
    full_answer: Mapped[int]
    depth: Mapped[int]

    __table_args__ = (Index("ix_traces_domain_created_at", "domain", "created_at"),)


class DecisionRow(Base):
    """The ledger. Unchanged holds are folded into one row: `repeats` counts, `last_at` ends it."""

    __tablename__ = "decisions"
    __table_args__ = (Index("ix_decisions_domain_at", "domain", "at"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    domain: Mapped[str] = mapped_column(ForeignKey("domains.name"))
    at: Mapped[datetime]
    last_at: Mapped[datetime]
    repeats: Mapped[int]
    action: Mapped[str] = mapped_column(String(30))
    rule: Mapped[str] = mapped_column(String(60))
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(String(200))
    evidence: Mapped[dict[str, Any]]
    state_before: Mapped[dict[str, Any]]
    state_after: Mapped[dict[str, Any]]
    policy_version: Mapped[int | None]
    spec_hash: Mapped[str] = mapped_column(String(64))


class Incident(Base):
    """Something a person should know about: a rollback, a narrowing, blind steering."""

    __tablename__ = "incidents"
    __table_args__ = (Index("ix_incidents_domain_opened_at", "domain", "opened_at"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    domain: Mapped[str] = mapped_column(ForeignKey("domains.name"))
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    kind: Mapped[str] = mapped_column(String(60))
    summary: Mapped[str] = mapped_column(Text)
    decision_id: Mapped[int | None] = mapped_column(ForeignKey("decisions.id"))


class Report(Base):
    """A weekly report's figures as they were written."""

    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    domain: Mapped[str] = mapped_column(ForeignKey("domains.name"))
    week: Mapped[str] = mapped_column(String(8))
    created_at: Mapped[datetime]
    figures: Mapped[dict[str, Any]]


class Switch(Base):
    """A switch over all domains: `kill` sends every new request to full depth."""

    __tablename__ = "switches"

    name: Mapped[str] = mapped_column(String(30), primary_key=True)
    on: Mapped[bool]
    changed_at: Mapped[datetime]
    changed_by: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
