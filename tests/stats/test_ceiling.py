"""Agreement is read relative to how often the full model agrees with itself, and safely so."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.stats.ceiling import CeilingTest
from rollout.stats.promotion import PromotionTest

pairs = st.lists(st.booleans(), max_size=100)
counts = st.integers(1, 3_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@given(pairs, pairs, st.integers(0, 100))
def test_order_and_batches_do_not_matter(early: list[bool], full: list[bool], cut: int) -> None:
    start = CeilingTest.start(0.95)
    split = start.with_pairs(full=full).with_pairs(early[:cut]).with_pairs(early[cut:])
    assert split == start.with_pairs(np.array(early, dtype=bool), np.array(full, dtype=bool))


@given(counts, counts)
def test_json_gives_the_test_back(early: tuple[int, int], full: tuple[int, int]) -> None:
    test = CeilingTest(0.95, *early, *full)
    assert CeilingTest.from_json(json.loads(json.dumps(test.to_json()))) == test


@given(counts, st.floats(0.5, 0.98), st.floats(0.001, 0.01))
def test_evidence_at_a_higher_floor_is_evidence_at_a_lower_one(
    seen: tuple[int, int], floor: float, more: float
) -> None:
    # What lets the floor move with the ceiling.
    lower, higher = PromotionTest(floor, *seen), PromotionTest(floor + more, *seen)
    assert lower.log_e_value >= higher.log_e_value - 1e-9


@given(counts, counts)
def test_the_estimate_lies_within_its_interval(
    early: tuple[int, int], full: tuple[int, int]
) -> None:
    found = CeilingTest(0.95, *early, *full).relative(0.05)
    if found is None:
        assert full[1] == full[0]
    else:
        estimate, lower, upper = found
        assert 0.0 <= lower <= estimate <= upper


def test_without_full_pairs_the_ceiling_is_one() -> None:
    test = CeilingTest(0.95, 300, 2)
    assert test.ceiling(0.05) == (0.0, 1.0)
    assert test.relative(0.05) is None
    assert test.promotion(0.05)[0].floor == 0.95
    assert not CeilingTest(0.95, 1_000, 60).certified(0.05)


def _certified_ever(rng: np.random.Generator, agreement: float, ceiling: float) -> bool:
    test = CeilingTest.start(0.95)
    for _ in range(90):
        test = test.with_pairs(rng.random(50) < agreement, rng.random(20) < ceiling)
        if test.certified(0.05):
            return True
    return False


def test_agreement_just_under_the_relative_floor_is_ever_certified_with_the_stated_chance() -> None:
    rng = np.random.default_rng(91)
    wrong = [_certified_ever(rng, 0.95 * 0.97 - 1e-3, 0.97) for _ in range(250)]
    assert np.mean(wrong) <= 0.05


def test_an_early_answer_as_good_as_the_full_one_is_certified_though_it_often_differs() -> None:
    rng = np.random.default_rng(92)
    # Agreement 0.94 is below the plain floor of 0.95: without full pairs it is never certified.
    assert np.mean([_certified_ever(rng, 0.94, 0.94) for _ in range(40)]) > 0.95


@pytest.mark.parametrize(
    "values", [{"floor": 0.0}, {"floor": 1.0}, {"floor": 0.9, "full_mismatches": 1}]
)
def test_impossible_floors_and_counts_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        CeilingTest(**values)
