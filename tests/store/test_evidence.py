"""What a tick makes of outcomes: arms, severities, noise pairs, ladder; and of what is broken."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import func, select, update

from rollout.control.ladder import GRID
from rollout.control.spec import DomainSpec
from rollout.control.state import DomainState
from rollout.store.catalog import load_policy, newest_version, save_policy
from rollout.store.ledger import load_state, replace_state
from rollout.store.models import ExitPolicyRow, Incident, Outcome
from rollout.store.outcomes import insert_outcomes, record_replay
from rollout.store.session import Store
from tests.store.examples import LABELS, NOW, a_policy, an_outcome, with_domain
from tests.store.test_tick import HOUR, LAX, SPEC, answered, last_row, replayed, standing, ticked

TRIED = [{"threshold": threshold} for threshold in (1.0, 0.9, 0.8, 0.5, 0.3)]


def spec_with(**keys: Any) -> DomainSpec:
    return DomainSpec.from_json({**SPEC.to_json(), **keys})


def live(
    store: Store,
    spec: DomainSpec = SPEC,
    stage: int = 1,
    thresholds: tuple[float, ...] = LAX,
    certificate: dict[str, Any] | None = None,
) -> Store:
    with_domain(store, spec=spec)
    with store.write() as session:
        policy = a_policy(thresholds=thresholds)
        save_policy(session, policy, LABELS, certificate or {}, "tester", NOW)
        state = replace(DomainState.start(spec, NOW, policy_version=1), stage=stage)
        replace_state(session, "billing", state, NOW)
    return store


def incidents(store: Store) -> list[tuple[str, bool]]:
    with store.read() as session:
        found = session.scalars(select(Incident).order_by(Incident.id))
        return [(one.kind, one.closed_at is None) for one in found]


# --- what is broken ---------------------------------------------------------------------------


def test_a_row_that_cannot_be_folded_is_an_error_and_stays_for_later(sqlite_store: Store) -> None:
    store = live(sqlite_store, spec_with(agreement={"severity": {"*": 0.5}}))
    answered(store, 60, 2)
    trace = "UPDATE traces SET answers = '[99, 99]'"
    with store.engine.begin() as connection:
        connection.exec_driver_sql(trace)
    broken = ticked(store)
    assert (broken.action, broken.verdict, broken.rule) == ("hold", "error", "broken_monitor")
    assert "IndexError" in broken.reason
    assert incidents(store) == [("broken_monitor", True)]
    replayed(store)
    with store.read() as session:
        assert session.scalar(select(func.count()).where(~Outcome.monitored)) == 62
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE traces SET answers = '[0, 0]'")
    well = ticked(store, NOW + HOUR + timedelta(minutes=1))
    assert well.facts["comparisons"] == 62
    assert incidents(store) == [("broken_monitor", False)]


def test_a_monitor_that_turns_into_no_number_is_never_stored(store: Store) -> None:
    live(store)
    answered(store, 30)
    state = standing(store)
    levels = (math.inf,) * 6
    broken = replace(state.monitor, target=replace(state.monitor.target, levels=levels))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(state.monitor), "update", lambda self, *_, **__: broken)
        decision = ticked(store)
    assert (decision.action, decision.verdict) == ("hold", "error")
    assert standing(store).monitor == state.monitor
    assert ticked(store, NOW + HOUR + timedelta(minutes=1)).facts["comparisons"] == 30


def test_a_live_policy_that_cannot_be_read_is_an_error(store: Store) -> None:
    live(store)
    answered(store, 120)
    with store.write() as session:
        session.execute(update(ExitPolicyRow).values(thresholds=[7.0, 7.0]))
    decision = ticked(store)
    assert (decision.action, decision.verdict) == ("hold", "error")
    assert "policy cannot be read" in decision.reason


def test_a_clock_that_goes_back_is_an_error_once(store: Store) -> None:
    live(store)
    answered(store, 20)
    ticked(store, NOW + 2 * HOUR)
    back = ticked(store, NOW + HOUR)
    assert (back.action, back.rule) == ("hold", "clock")
    assert ticked(store, NOW + HOUR + timedelta(minutes=1)).verdict == "inconclusive"
    assert incidents(store) == [("clock", False)]


def test_an_outcome_from_the_future_does_not_keep_evidence_fresh(store: Store) -> None:
    live(store)
    answered(store, 20, at=NOW + 30 * HOUR)
    assert ticked(store).facts["last_comparison_at"] == (NOW + HOUR).isoformat()


def test_late_outcomes_count_once_and_turn_nothing_back(store: Store) -> None:
    live(store)
    answered(store, 20, at=NOW + 2 * HOUR)
    first = ticked(store, NOW + 2 * HOUR)
    answered(store, 10, at=NOW + HOUR)
    late = ticked(store, NOW + 2 * HOUR + timedelta(minutes=1))
    assert late.facts["comparisons"] == 30
    assert late.facts["last_comparison_at"] == first.facts["last_comparison_at"]


def test_duplicate_outcomes_count_once(store: Store) -> None:
    live(store)
    rows = [an_outcome(f"r{number}", created_at=NOW + HOUR) for number in range(10)]
    for _ in range(3):
        with store.write() as session:
            insert_outcomes(session, rows + rows)
        decision = ticked(store)
    assert decision.facts["comparisons"] == 10
    assert decision.facts["requests"] == 10


# --- arms -------------------------------------------------------------------------------------


def keyed(store: Store, early: int, control: int, weight: float = 0.1) -> None:
    with store.write() as session:
        start = session.scalar(select(func.count()).select_from(Outcome)) or 0
        insert_outcomes(
            session,
            [
                an_outcome(
                    f"request-{start + number}",
                    created_at=NOW + HOUR,
                    stage_weight=weight,
                    request_key_hash=sha256(str(start + number).encode()).hexdigest(),
                    arm="early" if number < early else "control",
                    agreement=None if number < early else 1.0,
                )
                for number in range(early + control)
            ],
        )


def test_lost_outcomes_of_one_arm_hold_the_promotion_and_alert(store: Store) -> None:
    live(store)
    keyed(store, early=2, control=400)
    decision = ticked(store)
    assert (decision.action, decision.rule) == ("hold", "sample_ratio_mismatch")
    assert incidents(store) == [("sample_ratio_mismatch", True)]
    replayed(store)


def test_requests_of_another_stage_say_nothing_of_this_ones_split(store: Store) -> None:
    live(store)
    keyed(store, early=0, control=400, weight=0.0)
    assert ticked(store).action == "promote"


# --- severities, noise ceiling ----------------------------------------------------------------


def test_severities_depend_on_what_the_policy_would_have_answered(store: Store) -> None:
    severity = {"refund": {"invoice": 0.25}}
    live(store, spec_with(agreement={"target": 0.98, "floor": 0.9, "severity": severity}))
    # The traces of the mismatches say invoice where the full model says refund.
    answered(store, 98, 2, full_answer="refund")
    assert ticked(store).facts["agreement"] == pytest.approx(0.995)
    replayed(store)


def test_each_replay_from_scratch_counts_once_as_a_pair_of_full_answers(store: Store) -> None:
    live(store, spec_with(agreement={"target": 0.98, "floor": 0.9, "noise_ceiling": True}))
    answered(store, 40)
    ticked(store)
    with store.write() as session:
        for number in range(20):
            matches = number > 0
            record_replay(session, f"request-{number}", answer="x", matches=matches, layers=8)
    minute = timedelta(minutes=1)
    found = ticked(store, NOW + HOUR + minute).facts["ceiling"]
    assert (found["pairs"], found["mismatches"]) == (20, 1)
    again = ticked(store, NOW + HOUR + 2 * minute)
    assert again.facts["ceiling"]["pairs"] == 20
    assert standing(store).shadow_layers == 160


# --- the ladder -------------------------------------------------------------------------------


def at_the_top(store: Store, thresholds: tuple[float, ...] = (0.99, 0.99)) -> Store:
    return live(store, stage=3, thresholds=thresholds, certificate={"tried": TRIED})


def test_a_bolder_threshold_is_certified_by_traces_and_becomes_the_next_version(
    store: Store,
) -> None:
    at_the_top(store)
    answered(store, 400, 4)
    decision = ticked(store)
    assert (decision.action, decision.verdict, decision.threshold) == ("loosen", "pass", 0.8)
    replayed(store)
    with store.read() as session:
        policy, labels = load_policy(session, "billing", 2)
    assert (policy.thresholds, labels) == ((0.8, 0.8), LABELS)
    state = standing(store)
    assert (state.stage, state.policy_version) == (3, 2)
    assert state.ladder is not None
    assert state.ladder.test.count == 404


def test_the_ladder_goes_on_under_the_new_version(store: Store) -> None:
    at_the_top(store)
    answered(store, 400, 4)
    ticked(store)
    answered(store, 100, at=NOW + 2 * HOUR, policy_version=2)
    ticked(store, NOW + 2 * HOUR)
    state = standing(store)
    assert state.ladder is not None
    assert (state.ladder.test.count, state.ladders) == (504, 1)


def test_where_calibration_tried_nothing_a_grid_is_certified(store: Store) -> None:
    live(store, stage=3, thresholds=(0.99, 0.99))
    answered(store, 400, 4)
    decision = ticked(store)
    assert decision.action == "loosen"
    assert decision.threshold in GRID


def test_without_the_threshold_lever_nothing_is_loosened(store: Store) -> None:
    spec = spec_with(levers={"up": ["share"]})
    live(store, spec, stage=3, thresholds=(0.99, 0.99), certificate={"tried": TRIED})
    answered(store, 400, 4)
    assert ticked(store).rule == "top_stage"
    with store.read() as session:
        assert newest_version(session, "billing") == 1
        found = load_state(session, "billing")
    assert found is not None and found[0].ladder is None


def test_what_early_answers_save_and_shadows_cost_is_kept(store: Store) -> None:
    live(store)
    early = {"arm": "early", "layers_run": 3, "stage_weight": 0.1, "agreement": None}
    answered(store, 10, **early)
    answered(store, 2, **early | {"shadow": True, "shadow_layers": 5, "agreement": 1.0})
    decision = ticked(store)
    state = standing(store)
    assert (state.saved_layers, state.shadow_layers) == (60.0, 10.0)
    assert decision.facts["shadow_cost"] == pytest.approx(1 / 6)
    assert last_row(store).evidence["shadow_rate"] == state.shadow_rate
