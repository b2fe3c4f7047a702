"""Intervals cover the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from rollout.stats.intervals import clopper_pearson, confidence_sequence, weighted_interval

counts = st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@given(counts, st.sampled_from([0.2, 0.05, 0.01]))
def test_the_estimate_lies_between_the_bounds(count: tuple[int, int], alpha: float) -> None:
    total, mismatches = count
    lower, upper = confidence_sequence(total, mismatches, alpha)
    assert 0.0 <= lower <= 1 - mismatches / total <= upper <= 1.0
    assert lower < upper


@given(counts)
def test_less_error_means_a_wider_interval(count: tuple[int, int]) -> None:
    wide, narrow = confidence_sequence(*count, 0.01), confidence_sequence(*count, 0.1)
    assert wide[0] <= narrow[0] and narrow[1] <= wide[1]


def test_nothing_seen_says_nothing() -> None:
    assert confidence_sequence(0, 0, 0.05) == (0.0, 1.0)
    assert weighted_interval([], [], 0.05) is None


def test_the_sequence_covers_the_truth_at_all_looks_at_once() -> None:
    rng = np.random.default_rng(21)
    truth, horizon, missed = 0.97, 3_000, 0
    looks = np.unique(np.geomspace(1, horizon, 60).astype(int))
    for _ in range(400):
        mismatches = np.cumsum(rng.random(horizon) >= truth)
        missed += any(
            not lower <= truth <= upper
            for lower, upper in (
                confidence_sequence(int(look), int(mismatches[look - 1]), 0.05) for look in looks
            )
        )
    assert missed / 400 <= 0.05


@given(counts)
def test_clopper_pearson_is_scipys_exact_interval(count: tuple[int, int]) -> None:
    total, mismatches = count
    exact = binomtest(total - mismatches, total).proportion_ci(0.95, method="exact")
    assert clopper_pearson(total - mismatches, total, 0.05) == pytest.approx(
        (exact.low, exact.high), abs=1e-9
    )


def test_equal_weights_are_no_weights() -> None:
    matched = [True] * 95 + [False] * 5
    weighted = weighted_interval([7.0] * 100, matched, 0.05)
    assert weighted is not None
    assert (weighted.lower, weighted.upper) == pytest.approx(clopper_pearson(95, 100, 0.05))


def test_weights_undo_unequal_sampling() -> None:
    rng = np.random.default_rng(22)
    covered, estimates = 0, []
    for _ in range(600):
        hard = rng.random(6_000) < 0.3
        matched = rng.random(6_000) < np.where(hard, 0.9, 0.99)
        # Hard requests are sampled five times as often: unweighted agreement would be 0.93.
        inclusion = np.where(hard, 0.5, 0.1)
        taken = rng.random(6_000) < inclusion
        interval = weighted_interval(1 / inclusion[taken], matched[taken], 0.05)
        assert interval is not None
        estimates.append(interval.estimate)
        covered += interval.lower <= 0.963 <= interval.upper
    assert np.mean(estimates) == pytest.approx(0.963, abs=0.002)
    assert covered / 600 >= 0.94


@pytest.mark.parametrize("weights", [[0.0, 1.0], [-1.0, 1.0], [float("inf"), 1.0], [1.0]])
def test_impossible_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        weighted_interval(weights, [True, False], 0.05)
