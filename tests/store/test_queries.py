"""Where a domain stands, and why a request was answered as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from rollout.control.decision import Decision
from rollout.control.state import DomainState
from rollout.store.catalog import save_policy, set_kill_switch
from rollout.store.ledger import commit_decision, record_event, replace_state
from rollout.store.outcomes import insert_outcomes
from rollout.store.queries import explain, status
from rollout.store.session import Store
from rollout.values import RolloutError
from tests.store.examples import (
    LABELS,
    NOW,
    SPEC,
    a_policy,
    a_trace,
    an_outcome,
    later,
    with_domain,
)

START = DomainState.start(SPEC, NOW, policy_version=1)


@pytest.fixture
def rolling(store: Store) -> Store:
    """A domain at its second stage after a roll back and a promotion, with an incident open."""
    with_domain(store)
    second = replace(START, stage=1)
    with store.write() as session:
        save_policy(session, a_policy(), LABELS, {}, "me", NOW)
        version = replace_state(session, "billing", START, NOW)
        for seconds, decision in (
            (10.0, Decision("promote", "certified", "promoted on evidence", second)),
            (20.0, Decision("hold", "blind", "no comparisons", second, incident="blind")),
        ):
            version = commit_decision(
                session,
                domain="billing",
                lock_version=version,
                decision=decision,
                state_before=START,
                actor="controller",
                spec_hash="hash-1",
                now=later(seconds),
            )
        record_event(
            session, domain="billing", action="plan", reason="looked", actor="me", now=later(30)
        )
    return store


def test_a_status_says_where_a_domain_stands_and_why(rolling: Store) -> None:
    with rolling.read() as session:
        [row] = status(session, later(60))
    assert (row.domain, row.mode, row.killed) == ("billing", "active", False)
    assert (row.reason, row.decided_at) == ("no comparisons", later(20))
    assert (row.facts["stage"], row.facts["next_stage"], row.facts["agreement"]) == (0.1, 0.5, None)
    assert row.open_incidents == ("blind since 2026-11-16 09:30 UTC: no comparisons",)
    json.dumps(row.to_json(), allow_nan=False)


def test_a_status_tells_of_the_kill_switch(rolling: Store) -> None:
    with rolling.write() as session:
        set_kill_switch(session, on=True, actor="me", reason="drill", now=later(40))
    with rolling.read() as session:
        [row] = status(session, later(60))
    assert row.killed
    assert row.reason == "no comparisons"


def test_a_domain_without_a_decision_has_no_reason(store: Store) -> None:
    with_domain(store)
    with store.read() as session:
        [row] = status(session, NOW)
    assert (row.reason, row.decided_at, row.facts["stage"]) == (None, None, 0)


def test_an_explanation_shows_every_exit_against_its_threshold(rolling: Store) -> None:
    with rolling.write() as session:
        answered = an_outcome("r1", created_at=later(15), trace=a_trace(confidence=math.nan))
        insert_outcomes(session, [answered])
    with rolling.read() as session:
        found = explain(session, "r1")
    assert found.outcome["answer"] == "refund"
    assert found.outcome["created_at"] == later(15).isoformat()
    assert found.exits == (
        {"layer": 2, "answer": "invoice", "confidence": 0.4, "threshold": 0.95},
        {"layer": 4, "answer": "refund", "confidence": None, "threshold": 0.9},
    )
    assert found.policy is not None
    assert found.policy["never_early"] == ["fraud_report"]
    assert found.decision is not None
    assert found.decision["reason"] == "promoted on evidence"
    json.dumps(found.to_json(), allow_nan=False)


def test_a_request_before_any_policy_or_decision_is_explained_too(store: Store) -> None:
    with_domain(store)
    with store.write() as session:
        insert_outcomes(session, [an_outcome("r1", policy_version=None, agreement=None)])
    with store.read() as session:
        found = explain(session, "r1")
    assert (found.exits, found.policy, found.decision) == ((), None, None)


def test_an_unknown_request_is_told_where_it_may_be(store: Store) -> None:
    with store.read() as session, pytest.raises(RolloutError, match="'r9' is not in.*spool"):
        explain(session, "r9")
