"""Arms and shadows by salted hash."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from rollout.serving.assignment import ARM_SALT, SHADOW_SALT, arm_of, is_shadowed, share

VECTORS = json.loads(
    (Path(__file__).parents[2] / "docs" / "assignment-vectors.json").read_text("utf-8")
)
"""Published, for other implementations; docs/assignment.md says how to check one by hand."""

weights = st.floats(0, 1)
keys = st.text()


@pytest.mark.parametrize("vector", VECTORS["shares"])
def test_the_published_shares_hold(vector: dict[str, Any]) -> None:
    assert share(vector["salt"], vector["domain"], vector["key"]) == vector["share"]


@pytest.mark.parametrize("vector", VECTORS["arms"])
def test_the_published_arms_hold(vector: dict[str, Any]) -> None:
    for weight, arm in vector["arms"].items():
        assert arm_of(vector["domain"], vector["key"], float(weight)) == arm


@pytest.mark.parametrize("vector", VECTORS["shadows"])
def test_the_published_shadows_hold(vector: dict[str, Any]) -> None:
    for rate, shadowed in vector["shadowed"].items():
        assert is_shadowed(vector["domain"], vector["request_id"], float(rate)) == shadowed


def test_the_share_that_the_documentation_works_out_by_hand_is_the_first_vector() -> None:
    assert VECTORS["shares"][0]["share"] == (0x050E5FB58CF1E7B3 >> 11) / 2**53


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
