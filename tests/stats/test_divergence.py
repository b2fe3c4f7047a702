"""Histograms alarm when they change, and as seldom as stated when they do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.stats.divergence import (
    HistogramDrift,
    Measure,
    binned,
    divergence,
    null_threshold,
    quantile_edges,
)

START = HistogramDrift.start([60, 30, 10], window=20, mean_time_to_false_alarm=2_000)
observations = st.lists(st.integers(0, 2), max_size=100)
histograms = st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any)
MEASURES: tuple[Measure, ...] = ("psi", "jensen_shannon")


@given(observations, st.integers(0, 100))
def test_the_split_into_batches_does_not_matter(seen: list[int], cut: int) -> None:
    assert START.update(seen[:cut]).update(seen[cut:]) == START.update(seen)


@given(observations)
def test_json_gives_the_monitor_back(seen: list[int]) -> None:
    drift = START.update(seen)
    assert HistogramDrift.from_json(json.loads(json.dumps(drift.to_json()))) == drift


@given(histograms, histograms, st.sampled_from(MEASURES))
def test_divergence_is_zero_for_equal_shares_and_above_else(
    first: list[int], second: list[int], measure: Measure
) -> None:
    assert divergence(first, first, measure) == pytest.approx(0.0, abs=1e-12)
    assert divergence(first, second, measure) >= 0.0
    assert divergence(first, second, measure) == pytest.approx(
        float(divergence(second, first, measure))
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_false_alarms_come_as_seldom_as_stated(measure: Measure) -> None:
    rng = np.random.default_rng(61)
    shares, alarms, looks = np.array([0.6, 0.25, 0.1, 0.04, 0.01]), 0, 0
    for _ in range(12):
        reference = rng.multinomial(1_000, shares)
        windows = rng.multinomial(200, shares, size=20_000)
        threshold = null_threshold(reference.tolist(), 200, 0.002, measure)
        alarms += int((divergence(reference, windows, measure) >= threshold).sum())
        looks += len(windows)
    assert 0.3 * 0.002 <= alarms / looks <= 1.3 * 0.002


def test_the_tail_beyond_the_draws_goes_on_like_the_chi_square() -> None:
    # For such counts the large-sample limit holds: (1/n + 1/m) chi-square with 4 degrees.
    threshold = null_threshold([20_000] * 5, 100_000, 1e-6, "psi")
    assert threshold == pytest.approx(2e-5 * 33.38, rel=0.05)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_shift_towards_deeper_exits_is_found_within_two_windows(measure: Measure) -> None:
    rng = np.random.default_rng(62)
    drift = HistogramDrift.start([300, 400, 200, 100], 200, 100_000, measure)
    before = drift.update(rng.choice(4, 4_000, p=[0.3, 0.4, 0.2, 0.1]))
    after = before.update(rng.choice(4, 400, p=[0.15, 0.3, 0.3, 0.25]))
    assert (before.looks, before.alarms, before.drifted) == (20, 0, False)
    assert after.drifted and after.alarms


def test_the_alarm_ends_when_the_histogram_returns_but_is_not_forgotten() -> None:
    back = START.update([2] * 20).update([0] * 12 + [1] * 6 + [2] * 2)
    assert not back.drifted
    assert back.alarms == 1


def test_a_value_never_seen_in_the_reference_is_finite_evidence() -> None:
    drift = HistogramDrift.start([500, 500, 0], 100, 100_000).update([2] * 100)
    assert drift.drifted and drift.last is not None and np.isfinite(drift.last)


def test_a_longer_patience_means_a_higher_threshold() -> None:
    thresholds = [null_threshold([100, 50, 50], 50, alpha, "psi") for alpha in (1e-1, 1e-3, 1e-5)]
    assert thresholds == sorted(set(thresholds))


@given(st.lists(st.floats(0.0, 1.0) | st.just(float("nan")), min_size=1), st.integers(2, 12))
def test_every_value_has_a_bin_and_unknown_ones_their_own(values: list[float], bins: int) -> None:
    known = [value for value in values if value == value]
    if not known:
        with pytest.raises(ValueError, match="finite"):
            quantile_edges(values, bins)
        return
    edges = quantile_edges(values, bins)
    found = binned(values, edges)
    assert len(edges) < bins
    for value, bin_ in zip(values, found, strict=True):
        assert (bin_ == len(edges) + 1) == (value != value)
    order = np.argsort(known)
    assert (np.diff(binned(known, edges)[order]) >= 0).all()


@pytest.mark.parametrize(
    ("reference", "window", "patience"),
    [
        ([], 10, 100),
        ([5], 10, 100),
        ([0, 0], 10, 100),
        ([5, -1], 10, 100),
        ([5, 5], 0, 100),
        ([5, 5], 10, 10),
        ([5, 5], 10, float("inf")),
        ([5, 5], 10, float("nan")),
    ],
)
def test_a_monitor_that_makes_no_sense_is_refused(
    reference: list[int], window: int, patience: float
) -> None:
    with pytest.raises(ValueError):
        HistogramDrift.start(reference, window, patience)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_bin_that_the_reference_does_not_have_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="bins"):
        START.update([0, wrong])
