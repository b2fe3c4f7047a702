"""Arms and shadows by salted hash."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from rollout.serving.assignment import ARM_SALT, SHADOW_SALT, arm_of, is_shadowed, share

# First 53 bits of SHA-256 over the parts joined by NUL, over 2^53. Check with:
# printf 'arm\0billing\0customer-1' | sha256sum
VECTORS = [
    ("arm", "billing", "customer-1", 0.019750577758663734),
    ("arm", "billing", "customer-2", 0.7792488556188025),
    ("shadow", "billing", "customer-1", 0.4538297776329986),
    ("arm", "claims", "customer-1", 0.10139383874219576),
    ("arm", "billing", "顧客-1", 0.5553622737094109),
    ("arm", "billing", "", 0.36785230231254706),
]

weights = st.floats(0, 1)
keys = st.text()


@pytest.mark.parametrize(("salt", "domain", "key", "expected"), VECTORS)
def test_the_published_vectors_hold(salt: str, domain: str, key: str, expected: float) -> None:
    assert share(salt, domain, key) == expected


@given(keys, keys)
def test_a_share_lies_in_zero_to_one_and_never_reaches_one(domain: str, key: str) -> None:
    assert 0.0 <= share(ARM_SALT, domain, key) < 1.0


@given(keys, weights)
def test_a_key_stays_in_its_arm(key: str, weight: float) -> None:
    assert arm_of("billing", key, weight) == arm_of("billing", key, weight)


@given(keys, weights, weights)
def test_widening_evicts_nobody(key: str, one: float, other: float) -> None:
    narrow, wide = sorted((one, other))
    if arm_of("billing", key, narrow) == "early":
        assert arm_of("billing", key, wide) == "early"


@given(keys)
def test_the_ends_are_nobody_and_everybody(key: str) -> None:
    assert arm_of("billing", key, 0.0) == "control"
    assert arm_of("billing", key, 1.0) == "early"
    assert not is_shadowed("billing", key, 0.0)
    assert is_shadowed("billing", key, 1.0)


@given(keys)
def test_a_weight_that_is_no_number_means_full_depth(key: str) -> None:
    assert arm_of("billing", key, math.nan) == "control"


def test_shares_are_uniform() -> None:
    shares = [share(ARM_SALT, "billing", f"customer-{n}") for n in range(20_000)]
    assert kstest(shares, "uniform").pvalue > 0.001


def test_shadows_and_arms_and_domains_are_drawn_independently() -> None:
    tally = [0, 0, 0, 0]
    other_domain = [0, 0, 0, 0]
    for n in range(20_000):
        early = share(ARM_SALT, "billing", f"r{n}") < 0.5
        tally[2 * early + (share(SHADOW_SALT, "billing", f"r{n}") < 0.5)] += 1
        other_domain[2 * early + (share(ARM_SALT, "claims", f"r{n}") < 0.5)] += 1
    assert chisquare(tally).pvalue > 0.001
    assert chisquare(other_domain).pvalue > 0.001


def test_the_joined_parts_cannot_be_confused() -> None:
    assert share("arm", "ab", "c") != share("arm", "a", "bc")
