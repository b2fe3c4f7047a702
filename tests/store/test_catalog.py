"""Policies are versions that never change; the kill switch is in every domain's ledger."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select

from rollout.store.catalog import (
    kill_switch,
    load_policy,
    newest_version,
    save_policy,
    set_kill_switch,
)
from rollout.store.ledger import history
from rollout.store.models import ExitPolicyRow
from rollout.store.session import Store
from rollout.values import PolicyError, RolloutError
from tests.store.examples import LABELS, NOW, a_policy, with_domain


def test_a_policy_comes_back_as_it_was_under_the_next_version(store: Store) -> None:
    with_domain(store)
    with store.write() as session:
        assert newest_version(session, "billing") == 0
        assert save_policy(session, a_policy(), LABELS, {"risk": 0.02}, "me", NOW) == 1
        assert save_policy(session, a_policy(thresholds=(1.0, 0.7)), LABELS, {}, "me", NOW) == 2
    with store.read() as session:
        assert newest_version(session, "billing") == 2
        assert load_policy(session, "billing", 1) == (a_policy(), LABELS)
        assert load_policy(session, "billing", 2) == (
            a_policy(version=2, thresholds=(1.0, 0.7)),
            LABELS,
        )


def test_versions_count_per_domain(store: Store) -> None:
    with_domain(store)
    with_domain(store, "claims")
    with store.write() as session:
        save_policy(session, a_policy(), LABELS, {}, "me", NOW)
        assert save_policy(session, a_policy(domain="claims"), LABELS, {}, "me", NOW) == 1


def test_calibrations_at_once_draw_different_versions(store: Store) -> None:
    with_domain(store)
    drawn: list[int] = []

    def calibrate() -> None:
        with store.write() as session:
            drawn.append(save_policy(session, a_policy(), LABELS, {}, "me", NOW))

    threads = [threading.Thread(target=calibrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(drawn) == [1, 2, 3, 4]


def test_a_missing_version_is_named(store: Store) -> None:
    with_domain(store)
    with store.read() as session, pytest.raises(PolicyError, match="policy billing v7 is not"):
        load_policy(session, "billing", 7)


def test_a_policy_needs_its_domain(store: Store) -> None:
    with store.write() as session, pytest.raises(RolloutError, match="run `rollout apply` first"):
        save_policy(session, a_policy(), LABELS, {}, "me", NOW)


@pytest.mark.parametrize("thresholds", [["high"], [0.5], [2.0, 0.5]])
def test_a_stored_policy_that_cannot_be_served_is_refused(
    store: Store, thresholds: list[object]
) -> None:
    with_domain(store)
    with store.write() as session:
        save_policy(session, a_policy(), LABELS, {}, "me", NOW)
        session.scalars(select(ExitPolicyRow)).one().thresholds = thresholds
    with store.read() as session, pytest.raises(PolicyError, match="policy billing v1"):
        load_policy(session, "billing", 1)


def test_the_kill_switch_is_off_until_it_is_turned_and_every_ledger_says_so(store: Store) -> None:
    with_domain(store)
    with_domain(store, "claims")
    with store.write() as session:
        assert kill_switch(session) is None
        assert not set_kill_switch(session, on=False, actor="me", reason="", now=NOW)
        assert set_kill_switch(session, on=True, actor="me", reason="incident-4711", now=NOW)
        assert not set_kill_switch(session, on=True, actor="you", reason="again", now=NOW)
    with store.read() as session:
        switch = kill_switch(session)
        assert switch is not None
        assert (switch.on, switch.changed_by, switch.reason) == (True, "me", "incident-4711")
        for domain in ("billing", "claims"):
            assert [row.reason for row in history(session, domain, 9)] == [
                "kill switch turned on by me: incident-4711"
            ]
