"""Decisions, states and incidents change together, once, by whoever comes first."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select

from rollout.control.decision import Action, Decision
from rollout.control.state import DomainState
from rollout.store.ledger import (
    LostRace,
    commit_decision,
    history,
    load_state,
    record_event,
    replace_state,
)
from rollout.store.models import DecisionRow, Incident, RolloutState
from rollout.store.session import Store
from rollout.values import RolloutError
from tests.store.examples import NOW, SPEC, later, with_domain

START = DomainState.start(SPEC, NOW, policy_version=1)


@pytest.fixture
def ready(store: Store) -> Store:
    """A store with one domain in its first state."""
    with_domain(store)
    with store.write() as session:
        assert replace_state(session, "billing", START, NOW) == 1
    return store


def decide_to(action: Action, rule: str = "rule", **changes: Any) -> Decision:
    after = changes.pop("after", START)
    return Decision(action, rule, changes.pop("reason", f"{action} it"), after, **changes)


def commit(
    store: Store, decision: Decision, lock_version: int, seconds: float = 0.0, **changes: Any
) -> int:
    values: dict[str, Any] = {
        "domain": "billing",
        "lock_version": lock_version,
        "decision": decision,
        "state_before": START,
        "actor": "controller",
        "spec_hash": "hash-1",
        "now": later(seconds),
    }
    with store.write() as session:
        return commit_decision(session, **{**values, **changes})


def rows(store: Store) -> list[DecisionRow]:
    with store.read() as session:
        return history(session, "billing", 100)


def incidents(store: Store) -> list[Incident]:
    with store.read() as session:
        return list(session.scalars(select(Incident).order_by(Incident.id)))


def test_a_domain_without_a_state_has_none(store: Store) -> None:
    with_domain(store)
    with store.read() as session:
        assert load_state(session, "billing") is None


def test_a_decision_moves_the_state_and_leaves_a_row_that_replays(ready: Store) -> None:
    after = replace(START, stage=1, stage_since=later(60))
    decision = decide_to("promote", after=after, facts={"comparisons": 200})
    assert commit(ready, decision, 1, seconds=60) == 2
    with ready.read() as session:
        assert load_state(session, "billing") == (after, 2)
        row = session.get(RolloutState, "billing")
        assert row is not None
        assert (row.stage, row.mode, row.policy_version, row.updated_at) == (
            1,
            "active",
            1,
            later(60),
        )
    [entry] = rows(ready)
    assert (entry.action, entry.rule, entry.reason, entry.actor, entry.evidence) == (
        "promote",
        "rule",
        "promote it",
        "controller",
        {"comparisons": 200},
    )
    assert DomainState.from_json(entry.state_before) == START
    assert DomainState.from_json(entry.state_after) == after
    assert (entry.at, entry.last_at, entry.repeats) == (later(60), later(60), 1)


def test_a_state_that_cannot_be_read_is_named_with_the_way_out(ready: Store) -> None:
    with ready.write() as session:
        row = session.get(RolloutState, "billing")
        assert row is not None
        row.state = {"stage": 1}
    with ready.read() as session, pytest.raises(RolloutError, match="domain 'billing': its stored"):
        load_state(session, "billing")


def test_a_stale_lock_version_loses_and_writes_nothing(ready: Store) -> None:
    commit(ready, decide_to("pause"), 1)
    with pytest.raises(LostRace, match="state moved on from version 1 while controller decided"):
        commit(ready, decide_to("promote", incident="rollback"), 1)
    assert [row.action for row in rows(ready)] == ["pause"]
    assert incidents(ready) == []


def test_replacing_the_state_beats_a_decision_made_from_the_old_one(ready: Store) -> None:
    with ready.write() as session:
        assert replace_state(session, "billing", replace(START, policy_version=2), NOW) == 2
    with pytest.raises(LostRace):
        commit(ready, decide_to("promote"), 1)


def test_of_racing_controllers_exactly_one_decides_each_tick(ready: Store) -> None:
    start = threading.Barrier(4)
    won: list[int] = []
    lost: list[int] = []

    def control(number: int) -> None:
        with ready.read() as session:
            found = load_state(session, "billing")
        assert found is not None
        start.wait()
        try:
            commit(ready, decide_to("narrow", incident="narrowing"), found[1])
            won.append(number)
        except LostRace:
            lost.append(number)

    threads = [threading.Thread(target=control, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 3)
    assert len(rows(ready)) == 1
    assert len(incidents(ready)) == 1


def test_controllers_that_race_inside_their_transactions_decide_once(
    postgres_store: Store,
) -> None:
    store = with_domain(postgres_store)
    with store.write() as session:
        replace_state(session, "billing", START, NOW)
    outcome: list[str] = []

    def late() -> None:
        try:
            commit(store, decide_to("promote"), 1)
            outcome.append("won")
        except LostRace:
            outcome.append("lost")

    second = threading.Thread(target=late)
    with store.write() as first:
        commit_decision(
            first,
            domain="billing",
            lock_version=1,
            decision=decide_to("pause"),
            state_before=START,
            actor="person",
            spec_hash="hash-1",
            now=NOW,
        )
        second.start()
        second.join(0.3)
        assert second.is_alive(), "the second waits for the first to commit"
    second.join()
    assert outcome == ["lost"]
    assert [row.action for row in rows(store)] == ["pause"]


def test_unchanged_holds_are_one_row_that_carries_the_latest(ready: Store) -> None:
    first = replace(START, stage_since=later(1))
    last = replace(START, stage_since=later(2))
    commit(ready, decide_to("hold", reason="10 of 200", facts={"n": 10}, after=first), 1)
    version = commit(
        ready,
        decide_to("hold", reason="20 of 200", facts={"n": 20}, after=last),
        2,
        seconds=60,
        state_before=first,
    )
    assert version == 3
    [row] = rows(ready)
    assert (row.repeats, row.at, row.last_at) == (2, NOW, later(60))
    assert (row.reason, row.evidence) == ("20 of 200", {"n": 20})
    assert DomainState.from_json(row.state_before) == first
    assert DomainState.from_json(row.state_after) == last


@pytest.mark.parametrize(
    ("decision", "changes"),
    [
        (decide_to("hold", "another rule"), {}),
        (decide_to("hold"), {"actor": "another"}),
        (decide_to("hold"), {"spec_hash": "another"}),
        (decide_to("hold", after=replace(START, policy_version=2)), {}),
        (decide_to("pause"), {}),
    ],
)
def test_a_hold_of_another_kind_is_a_row_of_its_own(
    ready: Store, decision: Decision, changes: dict[str, Any]
) -> None:
    commit(ready, decide_to("hold"), 1)
    commit(ready, decision, 2, **changes)
    assert [row.repeats for row in rows(ready)] == [1, 1]


def test_only_holds_are_folded(ready: Store) -> None:
    commit(ready, decide_to("narrow"), 1)
    commit(ready, decide_to("narrow"), 2)
    assert len(rows(ready)) == 2


def test_an_event_between_two_holds_ends_the_folding(ready: Store) -> None:
    commit(ready, decide_to("hold"), 1)
    with ready.write() as session:
        record_event(session, domain="billing", action="plan", reason="looked", actor="me", now=NOW)
    commit(ready, decide_to("hold"), 2)
    assert [row.action for row in rows(ready)] == ["hold", "plan", "hold"]


def test_an_incident_opens_once_while_it_lasts(ready: Store) -> None:
    commit(ready, decide_to("hold", incident="blind"), 1)
    commit(ready, decide_to("hold", incident="blind"), 2)
    commit(ready, decide_to("roll_back", incident="rollback"), 3)
    found = incidents(ready)
    assert [(incident.kind, incident.summary) for incident in found] == [
        ("blind", "hold it"),
        ("rollback", "roll_back it"),
    ]
    assert found[1].decision_id == rows(ready)[0].id


@pytest.mark.parametrize("action", ["promote", "resume"])
def test_open_incidents_close_when_the_domain_is_well_again(ready: Store, action: Action) -> None:
    commit(ready, decide_to("roll_back", incident="rollback"), 1)
    commit(ready, decide_to("hold"), 2, seconds=30)
    assert [incident.closed_at for incident in incidents(ready)] == [None]
    commit(ready, decide_to(action), 3, seconds=60)
    assert [incident.closed_at for incident in incidents(ready)] == [later(60)]
    commit(ready, decide_to("roll_back", incident="rollback"), 4, seconds=90)
    assert [incident.closed_at for incident in incidents(ready)] == [later(60), None]


@pytest.mark.parametrize("kind", ["stale", "broken_monitor", "clock", "sample_ratio_mismatch"])
def test_an_errors_incident_closes_as_soon_as_a_verdict_is_possible(
    ready: Store, kind: str
) -> None:
    commit(ready, decide_to("hold", kind, incident=kind), 1)
    commit(ready, decide_to("pause", "command_pause"), 2, seconds=10)
    assert [incident.closed_at for incident in incidents(ready)] == [None]
    commit(ready, decide_to("hold", "thin_evidence"), 3, seconds=30)
    assert [incident.closed_at for incident in incidents(ready)] == [later(30)]


def test_stepping_down_blind_stays_an_incident_until_the_domain_is_well(ready: Store) -> None:
    commit(ready, decide_to("narrow", "blind", incident="blind"), 1)
    commit(ready, decide_to("hold", "thin_evidence"), 2, seconds=30)
    assert [incident.closed_at for incident in incidents(ready)] == [None]


def test_an_event_is_a_row_that_changes_no_state(ready: Store) -> None:
    with ready.write() as session:
        record_event(
            session,
            domain="billing",
            action="calibrate",
            reason="policy v1",
            actor="someone",
            now=NOW,
            facts={"texts": 400},
        )
    [row] = rows(ready)
    assert row.state_before == row.state_after == START.to_json()
    assert (row.action, row.policy_version, row.evidence) == ("calibrate", 1, {"texts": 400})
    with ready.read() as session:
        assert load_state(session, "billing") == (START, 1)


def test_an_event_of_a_domain_that_was_never_applied_is_refused(store: Store) -> None:
    with (
        pytest.raises(RolloutError, match="domain 'nobody' is not in the store"),
        store.write() as session,
    ):
        record_event(session, domain="nobody", action="x", reason="", actor="", now=NOW)


def test_history_is_newest_first_and_of_one_domain(ready: Store) -> None:
    with_domain(ready, "claims")
    with ready.write() as session:
        for number in range(4):
            record_event(
                session, domain="billing", action=f"a{number}", reason="", actor="", now=NOW
            )
        record_event(session, domain="claims", action="other", reason="", actor="", now=NOW)
    with ready.read() as session:
        assert [row.action for row in history(session, "billing", 2)] == ["a3", "a2"]
        assert session.scalar(select(func.count()).select_from(DecisionRow)) == 5
