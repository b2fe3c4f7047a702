"""The traffic's own signals reach the decision and the shadow rate that workers serve with."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import func, select

from rollout.control.decision import Decision
from rollout.control.state import DomainState
from rollout.serving.policy_cache import PolicyCache
from rollout.store.catalog import save_policy
from rollout.store.ledger import load_state, replace_state
from rollout.store.models import Outcome
from rollout.store.outcomes import insert_outcomes
from rollout.store.session import Store
from rollout.store.tick import tick
from tests.store.examples import LABELS, NOW, SPEC, a_policy, an_outcome, with_domain

AT_HALF = replace(DomainState.start(SPEC, NOW, policy_version=1), stage=2)


def answered(store: Store, count: int, **changes: object) -> Decision:
    """`count` requests of the early arm that nobody compared, then a tick."""
    with store.write() as session:
        stored = session.scalar(select(func.count()).select_from(Outcome)) or 0
        rows = [
            an_outcome(
                f"request-{stored + number}",
                request_key_hash=f"{stored + number:064x}",
                created_at=NOW + timedelta(minutes=1),
                arm="early" if number % 2 else "control",
                stage_weight=0.5,
                agreement=None,
                full_answer=None,
                policy_exit_layer=2,
                confidence=0.97,
                **changes,
            )
            for number in range(count)
        ]
        insert_outcomes(session, rows)
    decision = tick(store, "billing", NOW + timedelta(minutes=2))
    assert decision is not None
    return decision


def test_a_signal_that_moves_raises_the_shadow_rate_that_workers_serve_with(store: Store) -> None:
    with_domain(store)
    with store.write() as session:
        save_policy(session, a_policy(), LABELS, {}, "tester", NOW)
        replace_state(session, "billing", AT_HALF, NOW)
    assert answered(store, 1_500).facts["evidence"]["signals"]
    calm = PolicyCache(store).live("billing").shadow_rate
    decision = answered(store, 500, prompt_tokens=300)
    moved = [
        signal["name"]
        for signal in decision.facts["evidence"]["signals"]
        if signal["statistic"] >= signal["threshold"]
    ]
    assert moved == ["length"]
    assert "the traffic changed (length)" in decision.facts["shadow_reason"]
    assert PolicyCache(store).live("billing").shadow_rate > calm
    with store.read() as session:
        found = load_state(session, "billing")
    assert found is not None and found[0].shadow_rate == decision.facts["shadow_rate"]


def test_another_policy_version_starts_its_own_reference(store: Store) -> None:
    with_domain(store)
    with store.write() as session:
        for _ in range(2):
            save_policy(session, a_policy(), LABELS, {}, "tester", NOW)
        replace_state(session, "billing", AT_HALF, NOW)
    answered(store, 1_500)
    with store.write() as session:
        replace_state(session, "billing", replace(AT_HALF, policy_version=2), NOW)
    decision = answered(store, 1_500, policy_version=2, prompt_tokens=300)
    assert [s["name"] for s in decision.facts["evidence"]["signals"]][-2:] == [
        "length",
        "label mix",
    ]
    assert "traffic changed" not in decision.facts["shadow_reason"]
