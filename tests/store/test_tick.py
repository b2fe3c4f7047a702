"""A tick counts what is new, decides once and writes down all that its decision rests on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select

from rollout.control.decide import decide
from rollout.control.decision import Decision, Evidence
from rollout.control.spec import DomainSpec
from rollout.control.state import DomainState
from rollout.store.catalog import load_policy, newest_version, save_policy, set_kill_switch
from rollout.store.domains import load_domain
from rollout.store.ledger import LostRace, history, load_state, replace_state
from rollout.store.models import DecisionRow, Outcome
from rollout.store.outcomes import insert_outcomes
from rollout.store.records import OutcomeRecord, TraceRecord
from rollout.store.session import Store
from rollout.store.tick import tick
from rollout.values import DepthTrace, ExitPoint
from tests.store.examples import HEADS, LABELS, NOW, a_policy, an_outcome, with_domain

SPEC = DomainSpec.from_json(
    {
        "task": {"labels": "labels.txt", "template": "prompt.j2"},
        "agreement": {"target": 0.98, "floor": 0.9, "alpha": 0.5},
        "stages": [0, 0.1, 0.5, 1],
        "min_evidence": 50,
        "dwell": "30m",
        "evidence": {"mean_time_to_false_alarm": 200},
    }
)
HOUR = timedelta(hours=1)
LAX = (0.5, 0.5)


@pytest.fixture
def ready(store: Store) -> Store:
    return with_live_policy(store)


def with_live_policy(store: Store, stage: int = 1) -> Store:
    with_domain(store, spec=SPEC)
    with store.write() as session:
        save_policy(session, a_policy(thresholds=LAX), LABELS, {}, "tester", NOW)
        state = replace(DomainState.start(SPEC, NOW, policy_version=1), stage=stage)
        replace_state(session, "billing", state, NOW)
    return store


def answered(
    store: Store, matched: int, mismatched: int = 0, at: datetime = NOW + HOUR, **changes: Any
) -> None:
    """Compared requests of the control arm, the mismatches spread evenly and less confident."""
    with store.write() as session:
        start = session.scalar(select(func.count()).select_from(Outcome)) or 0
        count = matched + mismatched
        wrong = {round((place + 0.5) * count / mismatched) for place in range(mismatched)}
        rows = [row(start + place, place not in wrong, at, **changes) for place in range(count)]
        insert_outcomes(session, rows)


def row(number: int, matched: bool, at: datetime, **changes: Any) -> OutcomeRecord:
    answer, confidence = (1, 0.9 + number % 90 / 1000) if matched else (0, 0.6)
    exits = (ExitPoint(2, answer, confidence), ExitPoint(4, answer, confidence))
    values: dict[str, Any] = {
        "created_at": at,
        "policy_exit_layer": 2,
        "agreement": 1.0 if matched else 0.0,
        "trace": TraceRecord.from_trace(DepthTrace(exits, full_answer=1, depth=8), HEADS),
    }
    return an_outcome(f"request-{number}", **values | changes)


def ticked(store: Store, at: datetime = NOW + HOUR) -> Decision:
    decision = tick(store, "billing", at)
    assert decision is not None
    return decision


def standing(store: Store) -> DomainState:
    with store.read() as session:
        found = load_state(session, "billing")
    assert found is not None
    return found[0]


def last_row(store: Store) -> DecisionRow:
    with store.read() as session:
        return history(session, "billing", 1)[0]


def replayed(store: Store) -> None:
    """Decide again from the last stored row alone; it must come to the same."""
    stored = last_row(store)
    with store.read() as session:
        spec = load_domain(session, "billing").spec
    decision = decide(
        spec,
        DomainState.from_json(stored.state_before),
        Evidence.from_json(stored.evidence["evidence"]),
        stored.last_at,
    )
    assert decision.action == stored.action
    assert decision.rule == stored.rule
    assert decision.reason == stored.reason
    assert decision.state_after.to_json() == stored.state_after


def test_a_domain_without_a_state_is_not_decided_for(store: Store) -> None:
    assert tick(with_domain(store), "billing", NOW) is None


def test_only_comparisons_of_the_live_policy_are_folded_in(ready: Store) -> None:
    answered(ready, 30)
    answered(ready, 0, 20, policy_version=None)
    decision = ticked(ready)
    assert decision.facts["comparisons"] == 30
    assert decision.facts["mismatches"] == 0
    assert decision.facts["requests"] == 50


def test_rows_that_compare_nothing_are_no_evidence(ready: Store) -> None:
    answered(ready, 10)
    answered(ready, 5, arm="early", agreement=None, full_answer=None)
    # A fallback of the early arm agrees by construction, but nobody drew it as a shadow.
    answered(ready, 5, arm="early", policy_exit_layer=None)
    answered(ready, 5, arm="early", shadow=True, agreement=None, not_comparable="replay failed")
    answered(ready, 5, arm="early", shadow=True)
    decision = ticked(ready)
    assert decision.facts["comparisons"] == 15
    assert decision.facts["not_comparable"] == 5


def test_every_row_is_counted_once(ready: Store) -> None:
    answered(ready, 30)
    answered(ready, 5, arm="early", agreement=None)
    ticked(ready)
    again = ticked(ready, NOW + 2 * HOUR)
    assert (again.facts["new_requests"], again.facts["requests"]) == (0, 35)
    with ready.read() as session:
        assert session.scalar(select(func.count()).where(~Outcome.monitored)) == 0


@pytest.mark.parametrize(
    ("matched", "mismatched", "action"),
    [(20, 0, "hold"), (120, 0, "promote"), (60, 60, "roll_back"), (380, 20, "tighten")],
)
def test_a_decision_replays_from_its_stored_row(
    ready: Store, matched: int, mismatched: int, action: str
) -> None:
    answered(ready, matched, mismatched)
    assert ticked(ready).action == action
    replayed(ready)


def test_a_row_of_the_ledger_holds_all_that_the_decision_rests_on(ready: Store) -> None:
    answered(ready, 118, 2)
    ticked(ready)
    stored = last_row(ready)
    assert (stored.actor, stored.rule, stored.policy_version) == ("controller", "certified", 1)
    assert len(stored.spec_hash) == 64 and stored.reason
    facts = stored.evidence
    assert (facts["comparisons"], facts["mismatches"]) == (120, 2)
    lower, upper = facts["interval"]
    assert 0 < lower < facts["agreement"] < upper < 1
    assert facts["evidence"]["comparisons"] == 120
    spent, left = facts["error_budget"]["spent"], facts["error_budget"]["left"]
    assert spent + left == pytest.approx(0.5)


def test_a_folded_hold_replays_as_its_last(ready: Store) -> None:
    answered(ready, 20)
    ticked(ready)
    answered(ready, 10)
    ticked(ready, NOW + HOUR + timedelta(minutes=1))
    assert last_row(ready).repeats == 2
    replayed(ready)


def test_tightening_makes_the_next_policy_version_in_the_same_transaction(ready: Store) -> None:
    answered(ready, 380, 20)
    decision = ticked(ready)
    assert decision.action == "tighten"
    with ready.read() as session:
        before, _ = load_policy(session, "billing", 1)
        after, labels = load_policy(session, "billing", 2)
    assert labels == LABELS
    assert min(after.thresholds) > max(before.thresholds)
    assert replace(after, version=1, thresholds=LAX) == before
    state = standing(ready)
    assert (state.policy_version, state.stage) == (2, 1)
    assert state.monitor.promotion.count == 0


def test_a_tightening_that_loses_its_race_leaves_no_policy(ready: Store) -> None:
    answered(ready, 380, 20)
    with pytest.raises(LostRace), moving_the_state(ready, "exit_policies"):
        ticked(ready)
    with ready.read() as session:
        assert newest_version(session, "billing") == 1
        assert session.scalar(select(func.count()).where(~Outcome.monitored)) == 400


@contextmanager
def moving_the_state(store: Store, table: str) -> Iterator[None]:
    """While it is open, the state moves on just after the next insert into a table."""

    def move(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(f"INSERT INTO {table}"):
            cursor.connection.cursor().execute("UPDATE rollout_states SET version = version + 1")

    event.listen(store.engine, "after_cursor_execute", move)
    try:
        yield
    finally:
        event.remove(store.engine, "after_cursor_execute", move)


def test_answers_without_comparisons_narrow_in_time(ready: Store) -> None:
    answered(ready, 60, arm="early", agreement=None)
    stale = ticked(ready, NOW + 4 * HOUR)
    assert (stale.action, stale.rule) == ("hold", "stale")
    replayed(ready)
    blind = ticked(ready, NOW + 14 * HOUR)
    assert (blind.action, blind.rule) == ("narrow", "blind")
    replayed(ready)


def test_a_silent_domain_is_not_blind(ready: Store) -> None:
    answered(ready, 20)
    ticked(ready)
    quiet = ticked(ready, NOW + 48 * HOUR)
    assert (quiet.action, quiet.rule) == ("hold", "no_traffic")


def test_the_kill_switch_holds_a_promotion(ready: Store) -> None:
    answered(ready, 120)
    with ready.write() as session:
        set_kill_switch(session, on=True, actor="alice", reason="", now=NOW)
    assert ticked(ready).rule == "killed"


def test_two_controllers_that_look_at_once_promote_once(ready: Store) -> None:
    answered(ready, 120)
    both_have_read = threading.Barrier(2)

    def wait(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        # SQLite lets one writer in at a time, and the other one only then reads.
        if not ready.is_sqlite and "WHERE outcomes.domain" in statement:
            both_have_read.wait(timeout=10)

    results: list[str] = []

    def look() -> None:
        try:
            results.append(ticked(ready).action)
        except LostRace:
            results.append("lost")

    event.listen(ready.engine, "before_cursor_execute", wait)
    looking = [threading.Thread(target=look) for _ in range(2)]
    for thread in looking:
        thread.start()
    for thread in looking:
        thread.join()
    event.remove(ready.engine, "before_cursor_execute", wait)
    assert sorted(results) == (["hold", "promote"] if ready.is_sqlite else ["lost", "promote"])
    assert standing(ready).stage == 2
    with ready.read() as session:
        promotions = select(func.count()).where(DecisionRow.action == "promote")
        assert session.scalar(promotions) == 1


def test_a_tick_costs_what_is_new_and_nothing_for_history(ready: Store) -> None:
    answered(ready, 20)
    young = cost(ready, NOW + HOUR)
    for hours in range(2, 6):
        answered(ready, 400, at=NOW + hours * HOUR)
        ticked(ready, NOW + hours * HOUR)
    answered(ready, 20, at=NOW + 6 * HOUR)
    assert cost(ready, NOW + 6 * HOUR) <= young + 2


def cost(store: Store, at: datetime) -> int:
    """Statements sent and rows read by one tick."""
    counted = 0

    def count(*_: Any) -> None:
        nonlocal counted
        counted += 1

    event.listen(store.engine, "after_cursor_execute", count)
    event.listen(Outcome, "load", count)
    event.listen(DecisionRow, "load", count)
    try:
        ticked(store, at)
    finally:
        event.remove(store.engine, "after_cursor_execute", count)
        event.remove(Outcome, "load", count)
        event.remove(DecisionRow, "load", count)
    return counted
