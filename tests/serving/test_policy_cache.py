"""What cannot be read is not served: full depth, and the reason."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from rollout.control.state import DomainState
from rollout.serving.policy_cache import PolicyCache
from rollout.store.catalog import save_policy, set_kill_switch
from rollout.store.domains import UnknownDomain
from rollout.store.ledger import replace_state
from rollout.store.models import Domain
from rollout.store.session import Store, StoreUnreachable, open_store
from rollout.values import RolloutError
from tests.conftest import PostgresServer
from tests.store.examples import LABELS, NOW, SPEC, a_policy, with_domain

AT_HALF = replace(DomainState.start(SPEC, NOW, policy_version=1), stage=2)


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def serving(store: Store) -> Store:
    """A domain at half of its traffic."""
    return at_half(store)


def at_half(store: Store) -> Store:
    with_domain(store)
    with store.write() as session:
        save_policy(session, a_policy(), LABELS, {}, "me", NOW)
        replace_state(session, "billing", AT_HALF, NOW)
    return store


def test_the_live_policy_is_the_one_that_the_state_names(serving: Store) -> None:
    cache = PolicyCache(serving)
    live = cache.live("billing")
    assert (live.policy, live.stage_weight, live.killed, live.reason) == (
        a_policy(),
        0.5,
        False,
        None,
    )
    assert (live.spec, live.labels, live.template) == (SPEC, LABELS, "{{ text }}")
    assert cache.ready() == (True, "serving billing")


def test_a_change_reaches_the_worker_within_one_lifetime(serving: Store) -> None:
    clock = Clock()
    cache = PolicyCache(serving, ttl_s=2.0, clock=clock)
    assert cache.live("billing").stage_weight == 0.5
    with serving.write() as session:
        replace_state(session, "billing", replace(AT_HALF, stage=0), NOW)
    clock.now += 1.99
    assert cache.live("billing").stage_weight == 0.5
    clock.now += 0.01
    assert cache.live("billing").stage_weight == 0.0


def test_the_kill_switch_sends_everybody_to_full_depth_and_back(serving: Store) -> None:
    clock = Clock()
    cache = PolicyCache(serving, clock=clock)
    for on, weight in ((True, 0.0), (False, 0.5)):
        with serving.write() as session:
            set_kill_switch(session, on=on, actor="me", reason="drill", now=NOW)
        clock.now += 2.0
        live = cache.live("billing")
        assert (live.killed, live.stage_weight) == (on, weight)
        assert live.reason == ("the kill switch is on (by me: drill)" if on else None)
        assert live.policy == a_policy(), "control traces go on judging it"
        assert cache.ready()[0]


def test_a_domain_before_its_first_calibration_is_served_at_full_depth(store: Store) -> None:
    with_domain(store)
    cache = PolicyCache(store)
    live = cache.live("billing")
    assert (live.policy, live.stage_weight) == (None, 0.0)
    assert live.reason == "there is no exit policy yet: run `rollout calibrate`"
    assert cache.ready() == (True, "serving billing")


def test_an_unknown_domain_is_told_which_there_are(serving: Store) -> None:
    with pytest.raises(UnknownDomain, match=r"'biling' is unknown; did you mean 'billing'\?"):
        PolicyCache(serving).live("biling")
    with pytest.raises(UnknownDomain, match=r"'zzz' is unknown \(known: billing\)"):
        PolicyCache(serving).live("zzz")


def test_without_domains_one_is_told_to_apply(store: Store) -> None:
    cache = PolicyCache(store)
    with pytest.raises(UnknownDomain, match="none yet: run `rollout apply`"):
        cache.live("billing")
    assert cache.ready() == (True, "serving no domain: none was applied yet")


def test_when_the_store_goes_away_the_old_policy_is_not_used_again(
    postgres_server: PostgresServer, postgres_store: Store
) -> None:
    store = at_half(postgres_store)
    clock = Clock()
    cache = PolicyCache(store, clock=clock)
    assert cache.live("billing").policy == a_policy()
    name = str(store.engine.url.database)
    postgres_server.admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
    postgres_server.admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
    )
    try:
        clock.now += 2.0
        live = cache.live("billing")
        assert (live.policy, live.stage_weight) == (None, 0.0)
        assert live.reason is not None and "the policy store cannot be read" in live.reason
        assert (live.spec, live.labels, live.template) == (SPEC, LABELS, "{{ text }}")
        is_ready, why = cache.ready()
        assert not is_ready
        assert why.startswith("full depth everywhere: the policy store cannot be read")
        with pytest.raises(StoreUnreachable, match="'claims' cannot be looked up"):
            cache.live("claims")
    finally:
        postgres_server.admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
    clock.now += 2.0
    assert cache.live("billing").policy == a_policy()
    assert cache.ready()[0]


def test_a_worker_that_never_reached_the_store_says_so() -> None:
    cache = PolicyCache(open_store("postgresql://me:geheim@127.0.0.1:1/db"))
    with pytest.raises(StoreUnreachable, match="'billing' cannot be looked up") as caught:
        cache.live("billing")
    assert "geheim" not in str(caught.value)
    assert not cache.ready()[0]


def test_a_failure_is_kept_for_a_lifetime_too(tmp_path: Path) -> None:
    clock = Clock()
    store = open_store(f"sqlite:///{tmp_path / 'none.db'}")
    cache = PolicyCache(store, ttl_s=2.0, clock=clock)
    assert not cache.ready()[0]
    with store.write() as session:
        Domain.metadata.create_all(session.connection())
    clock.now += 1.0
    assert not cache.ready()[0]
    clock.now += 1.0
    assert cache.ready()[0]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("UPDATE exit_policies SET thresholds = '[9, 9]'", r"threshold 9.0 .* outside \[0, 1\]"),
        ("DELETE FROM exit_policies", "policy billing v1 is not in the store"),
        ("UPDATE rollout_states SET state = '{}'", "state or policy cannot be read"),
        ("UPDATE domains SET labels = '[\"a\"]'", "made for 3 other labels"),
    ],
)
def test_what_is_damaged_is_not_served(serving: Store, damage: str, reason: str) -> None:
    with serving.write() as session:
        session.execute(text(damage))
    cache = PolicyCache(serving)
    live = cache.live("billing")
    assert (live.policy, live.stage_weight) == (None, 0.0)
    is_ready, why = cache.ready()
    assert not is_ready
    assert live.reason is not None and live.reason in why
    assert re.search(reason, live.reason)


def test_a_stage_that_the_spec_does_not_have_is_not_served(serving: Store) -> None:
    with serving.write() as session:
        replace_state(session, "billing", replace(AT_HALF, stage=9), NOW)
    live = PolicyCache(serving).live("billing")
    assert (live.policy, live.stage_weight) == (None, 0.0)
    assert live.reason is not None and "stage 9 is not among the spec's 4 stages" in live.reason


def test_one_damaged_domain_leaves_the_others_alone(serving: Store) -> None:
    with_domain(serving, "claims")
    with serving.write() as session:
        session.execute(text("UPDATE domains SET spec = '{}' WHERE name = 'claims'"))
    cache = PolicyCache(serving)
    assert cache.live("billing").policy == a_policy()
    with pytest.raises(RolloutError, match="'claims' cannot be served: its stored spec"):
        cache.live("claims")
    assert not cache.ready()[0]


def test_a_spec_that_breaks_while_serving_means_full_depth(serving: Store) -> None:
    clock = Clock()
    cache = PolicyCache(serving, clock=clock)
    assert cache.live("billing").policy is not None
    with serving.write() as session:
        session.execute(text("UPDATE domains SET spec = '{}'"))
    clock.now += 2.0
    live = cache.live("billing")
    assert (live.policy, live.stage_weight, live.labels) == (None, 0.0, LABELS)
    assert not cache.ready()[0]
