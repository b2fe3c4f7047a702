"""The promotion test keeps its stated error rate, exactly, and wastes few samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sequential.exact import judge, promotion_test
from rollout.stats.promotion import PromotionTest, expected_more

matches = st.lists(st.booleans(), max_size=200)
floors = st.floats(0.5, 0.99)


@given(floors, matches, st.integers(0, 200))
def test_batching_of_updates_does_not_matter(floor: float, seen: list[bool], cut: int) -> None:
    start = PromotionTest.start(floor)
    assert start.update(seen[:cut]).update(seen[cut:]) == start.update(np.array(seen, dtype=bool))


@given(floors, matches)
def test_json_gives_the_test_back(floor: float, seen: list[bool]) -> None:
    test = PromotionTest.start(floor).update(seen)
    assert PromotionTest.from_json(test.to_json()) == test


@given(floors, matches)
def test_a_match_raises_the_evidence_and_a_mismatch_lowers_it(
    floor: float, seen: list[bool]
) -> None:
    test = PromotionTest.start(floor).update(seen)
    assert test.update([True]).log_e_value > test.log_e_value > test.update([False]).log_e_value


@given(floors, st.integers(0, 300), st.integers(0, 300))
def test_the_evidence_is_a_martingale_at_the_floor(floor: float, count: int, wrong: int) -> None:
    test = PromotionTest(floor, count + wrong, wrong)
    mean = floor * test.update([True]).e_value + (1 - floor) * test.update([False]).e_value
    assert mean == pytest.approx(test.e_value, rel=1e-9)


def test_a_million_comparisons_overflow_nothing() -> None:
    assert math.isfinite(PromotionTest(0.95, 1_000_000, 0).e_value)
    assert PromotionTest(0.95, 1_000_000, 900_000).e_value == 0.0


def test_no_comparisons_are_no_evidence_and_no_rate() -> None:
    test = PromotionTest.start(0.95)
    assert test.e_value == 1.0
    assert test.agreement is None


@pytest.mark.parametrize("floor", [0.0, 1.0, -0.1, math.nan])
def test_a_floor_outside_its_range_is_refused(floor: float) -> None:
    with pytest.raises(ValueError, match="floor"):
        PromotionTest.start(floor)


def test_a_policy_just_under_the_floor_is_promoted_with_at_most_the_stated_chance() -> None:
    for floor in (0.95, 0.97):
        chance = judge(floor - 1e-4, promotion_test(floor, 0.05, 8_000)).chance
        assert 0.03 <= chance <= 0.05


@pytest.mark.parametrize(
    ("truth", "sprt", "ratio"), [(0.98, 248, 1.25), (0.99, 122, 1.25), (1.0, 59, 1.5)]
)
def test_a_good_policy_is_promoted_with_nearly_the_fewest_samples(
    truth: float, sprt: int, ratio: float
) -> None:
    chance, mean_count = judge(truth, promotion_test(0.95, 0.05, 6_000))
    assert chance > 0.999
    assert mean_count <= ratio * sprt


@given(st.integers(0, 500), st.integers(0, 20), st.floats(0.9, 1.0), st.sampled_from([0.05, 0.01]))
def test_the_forecast_is_the_first_count_whose_mean_path_suffices(
    count: int, wrong: int, agreement: float, alpha: float
) -> None:
    test = PromotionTest(0.95, count + wrong, wrong)
    more = expected_more(test, alpha, agreement)
    if test.e_value >= 1 / alpha:
        assert more == 0
    elif agreement <= 0.95:
        assert more is None
    elif agreement == 1.0:
        assert more is not None
        assert PromotionTest(0.95, test.count + more, wrong).e_value >= 1 / alpha
        assert PromotionTest(0.95, test.count + more - 1, wrong).e_value < 1 / alpha


def test_the_forecast_meets_what_happens() -> None:
    rng = np.random.default_rng(7)
    more = expected_more(PromotionTest.start(0.95), 0.05, 0.99)
    assert more is not None
    counts = []
    for _ in range(200):
        test = PromotionTest.start(0.95)
        while test.e_value < 20:
            test = test.update(rng.random(1) < 0.99)
        counts.append(test.count)
    assert 0.7 < np.mean(counts) / more < 1.3
