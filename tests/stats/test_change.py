"""The change detector keeps its mean time to false alarm and finds real changes soon."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.stats.change import ChangeDetector, rates_after_change

errors = st.lists(st.booleans(), max_size=300)
tolerated_rates = st.floats(0.001, 0.5)


@given(tolerated_rates, errors, st.integers(0, 300))
def test_the_split_into_batches_does_not_matter_to_the_last_bit(
    rate: float, seen: list[bool], cut: int
) -> None:
    start = ChangeDetector.start(rate, 1_000)
    assert start.update(seen[:cut]).update(seen[cut:]) == start.update(np.array(seen, dtype=bool))


@given(tolerated_rates, st.lists(st.floats(0.0, 1.0), max_size=100), st.integers(0, 100))
def test_losses_between_none_and_an_error_take_the_ratio_between_theirs(
    rate: float, losses: list[float], cut: int
) -> None:
    start = ChangeDetector.start(rate, 1_000)
    after = start.update(losses)
    assert start.update(losses[:cut]).update(np.array(losses[cut:])) == after
    if not losses:
        return
    before, last = start.update(losses[:-1]), losses[-1]
    right, wrong = before.update([False]).levels, before.update([True]).levels
    for level, none, full in zip(after.levels, right, wrong, strict=True):
        assert level == pytest.approx(none + last * (full - none), rel=1e-9)


@pytest.mark.parametrize("loss", [-0.1, 1.1, math.nan])
def test_a_loss_outside_its_range_is_refused(loss: float) -> None:
    with pytest.raises(ValueError, match="loss"):
        ChangeDetector.start(0.02, 1_000).update([loss])


@given(tolerated_rates, errors)
def test_json_gives_the_detector_back(rate: float, seen: list[bool]) -> None:
    detector = ChangeDetector.start(rate, 1_000).update(seen)
    assert ChangeDetector.from_json(json.loads(json.dumps(detector.to_json()))) == detector


@given(st.floats(0.001, 0.5))
def test_alternatives_lie_above_the_tolerated_error_and_below_one(rate: float) -> None:
    assert all(rate < alternative < 1.0 for alternative in rates_after_change(rate))


@given(tolerated_rates, errors)
def test_the_levels_follow_the_published_recursion(rate: float, seen: list[bool]) -> None:
    detector = ChangeDetector.start(rate, 1e9).update(seen)
    # R_n is the sum over all start points of the likelihood ratio since then.
    for level, alternative in zip(detector.levels, rates_after_change(rate), strict=True):
        ratios = [alternative / rate if e else (1 - alternative) / (1 - rate) for e in seen]
        expected = sum(math.prod(ratios[start:]) for start in range(len(ratios)))
        assert level == pytest.approx(expected, rel=1e-9)


def test_an_alarm_stays_when_the_errors_stop() -> None:
    broken = ChangeDetector.start(0.02, 1_000).update([True] * 10)
    quiet = broken.update([False] * 2_000)
    assert broken.alarmed and quiet.alarmed
    assert quiet.statistic < 1_000


def test_a_long_outage_overflows_nothing_and_names_the_worst_rate() -> None:
    detector = ChangeDetector.start(0.02, 1_000).update([True] * 100_000)
    assert all(math.isfinite(level) for level in detector.levels)
    assert detector.likely_error == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("rate", "patience"), [(0.0, 100), (0.6, 100), (0.02, 1), (0.02, math.inf)]
)
def test_rates_and_patience_outside_their_range_are_refused(rate: float, patience: float) -> None:
    with pytest.raises(ValueError):
        ChangeDetector.start(rate, patience)


def _time_to_alarm(
    rng: np.random.Generator, detector: ChangeDetector, rate: float, limit: int
) -> int:
    """Observations at `rate` before the batch that alarms: rounded down, `limit` at most."""
    batch = 500
    for seen in range(0, limit, batch):
        detector = detector.update((rng.random(batch) < rate).tolist())
        if detector.alarmed:
            return seen
    return limit


def test_false_alarms_come_no_sooner_than_stated_at_the_tolerated_error() -> None:
    rng = np.random.default_rng(11)
    detector = ChangeDetector.start(0.02, 20_000)
    # Cut off at three times the promise, so the mean is an underestimate.
    times = [_time_to_alarm(rng, detector, 0.02, 60_000) for _ in range(90)]
    assert np.mean(times) >= 20_000


def test_slight_mistakes_at_the_tolerated_mean_loss_alarm_no_sooner_than_stated() -> None:
    rng = np.random.default_rng(14)
    times = []
    for _ in range(60):
        detector, seen = ChangeDetector.start(0.02, 5_000), -500
        while not detector.alarmed and seen < 15_000:
            seen += 500
            losses = np.where(rng.random(500) < 0.04, rng.choice([0.2, 0.8], 500), 0.0)
            detector = detector.update(losses)
        times.append(seen)
    assert np.mean(times) >= 5_000


def test_a_rise_from_one_to_ten_percent_is_found_within_sixty_samples_on_average() -> None:
    rng = np.random.default_rng(12)
    delays = []
    for _ in range(300):
        before = ChangeDetector.start(0.01, 20_000).update((rng.random(1_000) < 0.01).tolist())
        if before.alarmed:
            continue
        after, delay = before, 0
        while not after.alarmed:
            after, delay = after.update([rng.random() < 0.10]), delay + 1
        delays.append(delay)
    assert len(delays) > 270
    assert np.mean(delays) <= 60


def test_the_likely_error_is_near_the_rate_after_the_change() -> None:
    rng = np.random.default_rng(13)
    for truth in (0.04, 0.2):
        detector = ChangeDetector.start(0.02, 20_000)
        while not detector.alarmed:
            detector = detector.update((rng.random(10) < truth).tolist())
        detector = detector.update((rng.random(500) < truth).tolist())
        assert truth / 2 <= detector.likely_error <= truth * 2
