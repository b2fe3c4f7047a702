"""The report's figures against plain SQL, by hand, and where there is nothing to count."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, text

from rollout.reporting.figures import WeeklyFigures, weekly_figures
from rollout.reporting.savings import Account, request_account
from rollout.reporting.week import IsoWeek
from rollout.store.models import Outcome
from rollout.store.session import Store
from rollout.values import Arm, RolloutError

from .seed import MONDAY, add, decide, early, make_spec, outcome, prepare, seed_week, shadowed

WEEK = IsoWeek.parse("2026-W47")

PLAIN_SQL = """
SELECT
  COUNT(*) AS requests,
  SUM(CASE WHEN arm = 'early' THEN 1 ELSE 0 END) AS early,
  SUM(depth) AS full_layers,
  SUM(CASE WHEN arm = 'early' THEN depth - layers_run ELSE 0 END) AS gross_layers,
  SUM(probes * probe_cost) AS probe_layers,
  SUM(shadow_layers) AS shadow_layers,
  SUM(replay_layers) AS replay_layers,
  SUM(((CASE WHEN arm = 'early' THEN depth - layers_run ELSE 0 END)
       - probes * probe_cost - shadow_layers - replay_layers) * layer_ms) / 3600000.0 * 450
    AS net_money,
  SUM(CASE WHEN (arm = 'control' OR shadow) AND agreement IS NOT NULL THEN 1 ELSE 0 END)
    AS compared,
  SUM(CASE WHEN (arm = 'control' OR shadow) AND agreement = 0 THEN 1 ELSE 0 END) AS mismatches
FROM outcomes
WHERE domain = 'billing'
  AND created_at >= '2026-11-16 00:00:00' AND created_at < '2026-11-23 00:00:00'
"""

EXIT_AGREEMENT_SQL = """
SELECT SUM(agreement / inclusion_probability) / SUM(1.0 / inclusion_probability)
FROM outcomes
WHERE domain = 'billing' AND arm = 'early' AND exit_layer IS NOT NULL AND shadow
  AND agreement IS NOT NULL
  AND created_at >= '2026-11-16 00:00:00' AND created_at < '2026-11-23 00:00:00'
"""


def figures_of(store: Store, week: IsoWeek = WEEK, **domain: object) -> WeeklyFigures:
    with store.read() as session:
        return weekly_figures(session, make_spec(**domain), "billing", week)


def test_figures_equal_plain_sql_to_the_cent(store: Store) -> None:
    seed_week(store, make_spec())
    if not store.is_sqlite:
        with store.write() as session:
            session.execute(text("SET TIME ZONE 'UTC'"))
    summary = figures_of(store).period.summary
    with store.read() as session:
        if not store.is_sqlite:
            session.execute(text("SET TIME ZONE 'UTC'"))
        plain = session.execute(text(PLAIN_SQL)).one()
        exit_agreement = session.scalar(text(EXIT_AGREEMENT_SQL))
    layers, money = summary.savings.layers, summary.savings.money
    assert summary.requests == plain.requests > 2000
    assert summary.early == plain.early > 500
    assert layers.full == plain.full_layers
    assert layers.gross == plain.gross_layers
    assert layers.probe == pytest.approx(float(plain.probe_layers), rel=1e-12)
    assert layers.shadow == plain.shadow_layers
    assert layers.replay == plain.replay_layers
    assert money.net == pytest.approx(float(plain.net_money), abs=0.001)
    assert summary.agreement.policy is not None and summary.agreement.exits is not None
    assert summary.agreement.policy.compared == plain.compared
    assert summary.agreement.policy.mismatches == plain.mismatches > 0
    assert summary.agreement.exits.value == pytest.approx(float(exit_agreement or 0), rel=1e-12)


def test_the_sum_in_sql_is_the_savings_model_row_by_row(sqlite_store: Store) -> None:
    seed_week(sqlite_store, make_spec())
    with sqlite_store.read() as session:
        rows = session.scalars(select(Outcome)).all()
    total = Account()
    for row in rows:
        arm: Arm = "early" if row.arm == "early" else "control"
        total += request_account(
            arm,
            row.depth,
            row.layers_run,
            row.probes,
            row.probe_cost,
            row.shadow_layers,
            row.replay_layers,
        )
    measured = figures_of(sqlite_store).period.summary.savings.layers
    assert asdict(measured) == pytest.approx(asdict(total))


def test_buckets_add_up_to_the_week(store: Store) -> None:
    seed_week(store, make_spec())
    period = figures_of(store).period
    assert period.series.bucket_s == 3600
    assert sum(bucket.requests for bucket in period.series.buckets) == period.summary.requests
    assert sum(bucket.early for bucket in period.series.buckets) == period.summary.early
    net = sum(bucket.money.net for bucket in period.series.buckets)
    assert net == pytest.approx(period.summary.savings.money.net)
    assert sum(count for _, count in period.exit_depths) == period.summary.early
    assert sum(span.requests for span in period.stages) == period.summary.requests


def test_sampled_exits_speak_for_the_others_and_fallbacks_agree(store: Store) -> None:
    prepare(store, make_spec(), MONDAY)
    at = MONDAY + timedelta(hours=1)
    add(
        store,
        [
            shadowed("a", at, 2, agrees=True, inclusion_probability=0.1),
            shadowed("b", at, 2, agrees=False, inclusion_probability=0.5),
            early("c", at, 4),
            early("d", at, None),
        ],
    )
    agreement = figures_of(store).period.summary.agreement
    assert agreement.exits is not None and agreement.early is not None
    assert agreement.exits.value == pytest.approx(10 / 12)
    assert agreement.early.value == pytest.approx((1 + 3 * 10 / 12) / 4)
    assert agreement.early.lower == pytest.approx((1 + 3 * agreement.exits.lower) / 4)
    assert agreement.policy is not None
    assert agreement.policy.value == 0.5


def test_a_control_request_spares_nothing_and_pays_its_probes(store: Store) -> None:
    prepare(store, make_spec(), MONDAY)
    add(store, [outcome("a", MONDAY, probes=3, agreement=1.0)])
    savings = figures_of(store).period.summary.savings
    assert savings.layers.gross == 0
    assert savings.layers.net == pytest.approx(-0.15)
    assert savings.money.net == pytest.approx(-0.15 * 12.5 / 3.6e6 * 450)


def test_a_fixed_layer_time_in_the_spec_replaces_the_measured_one(store: Store) -> None:
    spec = make_spec()
    fixed = spec.model_copy(update={"cost": spec.cost.model_copy(update={"mean_layer_ms": 100.0})})
    prepare(store, spec, MONDAY)
    add(store, [early("a", MONDAY, 2, probes=0)])
    with store.read() as session:
        savings = weekly_figures(session, fixed, "billing", WEEK).period.summary.savings
    assert savings.money.net == pytest.approx(6 * 100 / 3.6e6 * 450)


def test_a_week_without_requests_claims_nothing(store: Store) -> None:
    prepare(store, make_spec(), MONDAY)
    figures = figures_of(store)
    summary = figures.period.summary
    assert (summary.requests, summary.early_share, summary.early_latency) == (0, None, None)
    assert summary.agreement.early is summary.agreement.exits is summary.agreement.policy is None
    assert summary.savings.layers.net_share is None
    assert figures.period.series.buckets == ()
    assert figures.recommendation.verdict == "hold"
    assert "no requests" in figures.recommendation.sentence


def test_a_week_without_comparisons_has_no_agreement_and_is_held(store: Store) -> None:
    prepare(store, make_spec(), MONDAY)
    add(store, [early(str(index), MONDAY, 4) for index in range(20)])
    add(store, [early(f"f{index}", MONDAY, None) for index in range(20)])
    figures = figures_of(store)
    assert figures.period.summary.agreement.early is None
    assert figures.recommendation.verdict == "hold"
    assert "no comparisons yet" in figures.recommendation.sentence


def test_last_week_stands_beside_this_one(store: Store) -> None:
    seed_week(store, make_spec())
    this = figures_of(store)
    next_week = figures_of(store, IsoWeek.parse("2026-W48"))
    assert next_week.last_week == this.period.summary
    assert next_week.period.summary.requests == 0


def test_regenerating_a_week_gives_the_same_figures_after_later_traffic(store: Store) -> None:
    spec = make_spec()
    seed_week(store, spec)
    before = figures_of(store)
    later = MONDAY + timedelta(days=8)
    add(store, [shadowed("later", later, 2, agrees=False)])
    decide(store, later, "promote", 0, 1, "later")
    assert figures_of(store) == before


def test_a_rollback_in_the_week_is_a_hold_with_its_reason(store: Store) -> None:
    seed_week(store, make_spec())
    figures = figures_of(store)
    assert figures.recommendation.verdict == "hold"
    assert "19 mismatches" in figures.recommendation.sentence
    assert [span.stage for span in figures.period.stages] == [0, 1, 2, 3, 4, 5, 0]
    assert figures.period.summary.incidents == 1


def test_certified_agreement_above_target_is_a_reason_to_widen(store: Store) -> None:
    prepare(store, make_spec(), MONDAY, stage=3)
    decide(store, MONDAY, "promote", 2, 3, "certified")
    at = MONDAY + timedelta(hours=2)
    add(store, [outcome(f"c{n}", at, agreement=1.0, probes=0) for n in range(600)])
    add(store, [early(f"e{n}", at, 2) for n in range(200)])
    recommendation = figures_of(store).recommendation
    assert recommendation.verdict == "widen"
    assert "600 comparisons" in recommendation.sentence


def test_agreement_surely_below_the_floor_is_a_reason_to_withdraw(store: Store) -> None:
    prepare(store, make_spec(), MONDAY)
    add(store, [outcome(f"c{n}", MONDAY, agreement=float(n % 5 > 0)) for n in range(400)])
    assert figures_of(store).recommendation.verdict == "withdraw"


def test_disagreements_show_the_surest_first_and_what_stands_for_a_text(store: Store) -> None:
    prepare(store, make_spec(), MONDAY)
    rows = [shadowed(f"s{n}", MONDAY, 2, agrees=False, confidence=0.9 + n / 100) for n in range(7)]
    add(store, rows)
    found = figures_of(store).period.disagreements
    assert [row.request_id for row in found] == ["s6", "s5", "s4", "s3", "s2"]
    assert found[0].text == "text not stored (hash ab12cd34ef56)"
    assert (found[0].early_answer, found[0].full_answer) == ("cancel", "refund")


def test_in_shadow_only_a_disagreement_is_told_from_the_trace(store: Store) -> None:
    seed_week(store, make_spec())
    period = figures_of(store, IsoWeek.parse("2026-W47")).period
    told = [row for row in period.disagreements if not row.served]
    assert all(row.early_answer != row.full_answer for row in period.disagreements)
    assert len(period.disagreements) == 5
    assert all(row.exit_layer is not None for row in told)


def test_latency_is_ranked_in_each_arm(store: Store) -> None:
    prepare(store, make_spec(), MONDAY)
    add(store, [early(f"e{n}", MONDAY, 2, latency_ms=float(n + 1)) for n in range(100)])
    add(store, [outcome("c", MONDAY, latency_ms=500.0)])
    summary = figures_of(store).period.summary
    assert summary.early_latency is not None and summary.control_latency is not None
    assert (summary.early_latency.median_ms, summary.early_latency.p95_ms) == (50.0, 95.0)
    assert summary.control_latency.median_ms == 500.0


def test_minutes_are_told_apart_where_everything_happened_within_an_hour(store: Store) -> None:
    prepare(store, make_spec(), MONDAY)
    add(store, [outcome(str(n), MONDAY + timedelta(minutes=n)) for n in range(40)])
    series = figures_of(store).period.series
    assert series.bucket_s == 60
    assert [bucket.at for bucket in series.buckets][:2] == [MONDAY, MONDAY + timedelta(minutes=1)]


def test_figures_are_plain_json(store: Store) -> None:
    seed_week(store, make_spec())
    plain = json.loads(json.dumps(figures_of(store).as_json(), allow_nan=False))
    assert plain["week"] == "2026-W47"
    assert datetime.fromisoformat(plain["period"]["summary"]["start"]) == MONDAY
    assert plain["period"]["summary"]["savings"]["layers"]["gross"] > 0


def test_an_unknown_domain_is_refused_with_the_known_ones(sqlite_store: Store) -> None:
    with sqlite_store.read() as session, pytest.raises(RolloutError, match="billing"):
        weekly_figures(session, make_spec(), "biling", WEEK)


def test_a_stage_changed_by_a_new_spec_shows_at_the_next_row(store: Store) -> None:
    prepare(store, make_spec(), MONDAY)
    decide(store, MONDAY + timedelta(hours=1), "promote", 1, 2, "certified")
    decide(store, MONDAY + timedelta(hours=3), "apply", 1, 1, "applied by ada: stages")
    add(store, [outcome(str(hour), MONDAY + timedelta(hours=hour)) for hour in range(5)])
    stages = figures_of(store).period.stages
    assert [(span.stage, span.requests) for span in stages] == [(1, 1), (2, 2), (1, 2)]
