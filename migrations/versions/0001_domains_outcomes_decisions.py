"""The tables of the first release: domains, outcomes, traces, decisions and what hangs on them.

Revision: 0001
After: none
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# A revision keeps its own types: what the models mean by them may change later.
RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
Instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "domains",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("spec", Json, nullable=False),
        sa.Column("spec_hash", sa.String(length=64), nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("applied_at", Instant, nullable=False),
        sa.Column("applied_by", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_domains")),
    )
    op.create_table(
        "switches",
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("on", sa.Boolean(), nullable=False),
        sa.Column("changed_at", Instant, nullable=False),
        sa.Column("changed_by", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_switches")),
    )
    op.create_table(
        "decisions",
        sa.Column("id", RowId, nullable=False),
        sa.Column("domain", sa.String(length=100), nullable=False),
        sa.Column("at", Instant, nullable=False),
        sa.Column("last_at", Instant, nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(length=30), nullable=False),
        sa.Column("rule", sa.String(length=60), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("evidence", Json, nullable=False),
        sa.Column("state_before", Json, nullable=False),
        sa.Column("state_after", Json, nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=True),
        sa.Column("spec_hash", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["domain"], ["domains.name"], name=op.f("fk_decisions_domain_domains")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
    )
    op.create_index("ix_decisions_domain_at", "decisions", ["domain", "at"])
    op.create_table(
        "exit_policies",
        sa.Column("id", RowId, nullable=False),
        sa.Column("domain", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("exit_layers", Json, nullable=False),
        sa.Column("thresholds", Json, nullable=False),
        sa.Column("never_early", Json, nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("heads", sa.String(length=64), nullable=False),
        sa.Column("criterion", sa.String(length=50), nullable=False),
        sa.Column("model_revision", sa.String(length=64), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("probe_cost", sa.Double(), nullable=False),
        sa.Column("layer_ms", sa.Double(), nullable=False),
        sa.Column("certificate", Json, nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["domain"], ["domains.name"], name=op.f("fk_exit_policies_domain_domains")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exit_policies")),
        sa.UniqueConstraint("domain", "version", name=op.f("uq_exit_policies_domain_version")),
    )
    op.create_table(
        "outcomes",
        sa.Column("id", RowId, nullable=False),
        sa.Column("request_id", sa.String(length=200), nullable=False),
        sa.Column("request_key_hash", sa.String(length=64), nullable=False),
        sa.Column("domain", sa.String(length=100), nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("arm", sa.String(length=10), nullable=False),
        sa.Column("stage_weight", sa.Double(), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=True),
        sa.Column("answer", sa.String(length=200), nullable=False),
        sa.Column("full_answer", sa.String(length=200), nullable=True),
        sa.Column("exit_layer", sa.Integer(), nullable=True),
        sa.Column("policy_exit_layer", sa.Integer(), nullable=True),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("fallback_reason", sa.String(length=200), nullable=True),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("layers_run", sa.Integer(), nullable=False),
        sa.Column("shadow_layers", sa.Integer(), nullable=False),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("probe_cost", sa.Double(), nullable=False),
        sa.Column("layer_ms", sa.Double(), nullable=False),
        sa.Column("shadow", sa.Boolean(), nullable=False),
        sa.Column("inclusion_probability", sa.Double(), nullable=False),
        sa.Column("agreement", sa.Double(), nullable=True),
        sa.Column("not_comparable", sa.String(length=200), nullable=True),
        sa.Column("replay_answer", sa.String(length=200), nullable=True),
        sa.Column("replay_matches", sa.Boolean(), nullable=True),
        sa.Column("replay_layers", sa.Integer(), server_default="0", nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("batch_rows", sa.Integer(), nullable=False),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("model_revision", sa.String(length=64), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=False),
        sa.Column("text_hash", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("monitored", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(
            ["domain"], ["domains.name"], name=op.f("fk_outcomes_domain_domains")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outcomes")),
        sa.UniqueConstraint("request_id", name=op.f("uq_outcomes_request_id")),
    )
    op.create_index("ix_outcomes_domain_created_at", "outcomes", ["domain", "created_at"])
    op.create_index(
        "ix_outcomes_unmonitored",
        "outcomes",
        ["domain", "id"],
        postgresql_where=sa.text("NOT monitored"),
        sqlite_where=sa.text("NOT monitored"),
    )
    op.create_table(
        "reports",
        sa.Column("id", RowId, nullable=False),
        sa.Column("domain", sa.String(length=100), nullable=False),
        sa.Column("week", sa.String(length=8), nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("figures", Json, nullable=False),
        sa.ForeignKeyConstraint(
            ["domain"], ["domains.name"], name=op.f("fk_reports_domain_domains")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
    )
    op.create_table(
        "rollout_states",
        sa.Column("domain", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("mode", sa.String(length=20), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=True),
        sa.Column("state", Json, nullable=False),
        sa.Column("updated_at", Instant, nullable=False),
        sa.ForeignKeyConstraint(
            ["domain"], ["domains.name"], name=op.f("fk_rollout_states_domain_domains")
        ),
        sa.PrimaryKeyConstraint("domain", name=op.f("pk_rollout_states")),
    )
    op.create_table(
        "incidents",
        sa.Column("id", RowId, nullable=False),
        sa.Column("domain", sa.String(length=100), nullable=False),
        sa.Column("opened_at", Instant, nullable=False),
        sa.Column("closed_at", Instant, nullable=True),
        sa.Column("kind", sa.String(length=60), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("decision_id", RowId, nullable=True),
        sa.ForeignKeyConstraint(
            ["decision_id"], ["decisions.id"], name=op.f("fk_incidents_decision_id_decisions")
        ),
        sa.ForeignKeyConstraint(
            ["domain"], ["domains.name"], name=op.f("fk_incidents_domain_domains")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_incidents")),
    )
    op.create_index("ix_incidents_domain_opened_at", "incidents", ["domain", "opened_at"])
    op.create_table(
        "traces",
        sa.Column("request_id", sa.String(length=200), nullable=False),
        sa.Column("domain", sa.String(length=100), nullable=False),
        sa.Column("heads", sa.String(length=64), nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("exit_layers", Json, nullable=False),
        sa.Column("answers", Json, nullable=False),
        sa.Column("confidences", Json, nullable=False),
        sa.Column("full_answer", sa.Integer(), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["outcomes.request_id"],
            name=op.f("fk_traces_request_id_outcomes"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_traces")),
    )
    op.create_index("ix_traces_domain_created_at", "traces", ["domain", "created_at"])


def downgrade() -> None:
    op.drop_index("ix_traces_domain_created_at", "traces")
    op.drop_table("traces")
    op.drop_index("ix_incidents_domain_opened_at", "incidents")
    op.drop_table("incidents")
    op.drop_table("rollout_states")
    op.drop_table("reports")
    op.drop_index("ix_outcomes_unmonitored", "outcomes")
    op.drop_index("ix_outcomes_domain_created_at", "outcomes")
    op.drop_table("outcomes")
    op.drop_table("exit_policies")
    op.drop_index("ix_decisions_domain_at", "decisions")
    op.drop_table("decisions")
    op.drop_table("switches")
    op.drop_table("domains")
