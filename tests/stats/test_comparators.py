"""What benchmarks simulate many at a time is what runs one at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.sequential.detectors import (
    NEVER,
    Cusum,
    Ewma,
    Mixture,
    Window,
    first_alarms,
    mean_time,
)
from benchmarks.sequential.exact import (
    beta_mixture,
    clopper_pearson,
    judge,
    promotion_test,
    sprt,
    wilson,
)
from rollout.stats.change import ChangeDetector
from rollout.stats.intervals import clopper_pearson as interval
from rollout.stats.intervals import confidence_sequence


def test_the_mixture_of_many_runs_is_the_change_detector() -> None:
    rng = np.random.default_rng(101)
    declared = (0.01, 0.02, 0.05)
    detectors = [ChangeDetector.start(rate, 1_000) for rate in declared]
    many = Mixture(declared)
    for _ in range(400):
        errors = rng.random(3) < 0.05
        detectors = [
            detector.update([bool(error)])
            for detector, error in zip(detectors, errors, strict=True)
        ]
        statistics = np.exp(many.step(errors))
        assert statistics == pytest.approx([one.statistic for one in detectors], rel=1e-9)


def test_the_comparators_are_what_they_say() -> None:
    rng = np.random.default_rng(102)
    errors = rng.random(600) < 0.05
    cusum, window, ewma = Cusum(0.01, 0.05, 1), Window(200, 1), Ewma(0.01, 0.01, 1)
    ratios = np.where(errors, math.log(5), math.log(0.95 / 0.99))
    for now, error in enumerate(errors, start=1):
        level = cusum.step(errors[now - 1 : now])[0]
        sums = ratios[:now][::-1].cumsum()
        assert level == pytest.approx(sums.max())
        assert window.step(errors[now - 1 : now])[0] == errors[max(now - 200, 0) : now].sum()
        last = ewma.level[0]
        assert ewma.step(errors[now - 1 : now])[0] == pytest.approx(0.99 * last + 0.01 * error)


def test_first_alarms_are_when_each_threshold_is_first_reached() -> None:
    alarms = first_alarms(
        np.random.default_rng(103), [(Window(10, 2), [1.0, 3.0, 11.0])], [(0.0, 5), (1.0, 20)], 2
    )
    assert alarms[0].tolist() == [[6, 6], [8, 8], [NEVER, NEVER]]
    assert mean_time(alarms[0], 25).tolist() == [6.0, 8.0, math.inf]


def test_boundaries_are_those_of_the_intervals() -> None:
    pearson, mixture = clopper_pearson(0.9, 0.05, 400), beta_mixture(0.9, 0.05, 400)
    for count in (30, 100, 250, 400):
        for boundary, lower in (
            (pearson, lambda n, m: interval(n - m, n, 0.1)[0]),
            (mixture, lambda n, m: confidence_sequence(n, m, 0.05)[0]),
        ):
            most = int(boundary[count - 1])
            assert most < 0 or lower(count, most) >= 0.9
            assert lower(count, most + 1) < 0.9


def test_wilson_promotes_where_its_lower_bound_is_above_the_floor() -> None:
    z, boundary = 1.6448536, wilson(0.9, 0.05, 300)
    for count in range(1, 301):
        wrong = np.arange(count + 1)
        share = 1 - wrong / count
        middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
        half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
        assert (middle - half > 0.9).sum() == boundary[count - 1] + 1


def test_the_exact_chance_is_what_simulation_finds() -> None:
    rng = np.random.default_rng(104)
    rule = promotion_test(0.9, 0.2, 200)
    mismatches = (rng.random((4_000, 200)) >= 0.93).cumsum(axis=1)
    reached = mismatches <= rule
    found = judge(0.93, rule)
    assert found.chance == pytest.approx(reached.any(axis=1).mean(), abs=0.03)
    first = reached.argmax(axis=1)[reached.any(axis=1)] + 1
    assert found.mean_count == pytest.approx(first.mean(), rel=0.05)


def test_nothing_needs_fewer_samples_than_the_test_that_knows_the_truth() -> None:
    for truth in (0.97, 0.99, 1.0):
        known = judge(truth, sprt(0.95, truth, 0.05, 4_000)).mean_count
        assert judge(truth, promotion_test(0.95, 0.05, 4_000)).mean_count > known
