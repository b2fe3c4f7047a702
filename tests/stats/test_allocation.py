"""Counts that contradict the weight are noticed, others are not, however often one looks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.stats.allocation import SampleRatioTest, sample_ratio_mismatch

segments = st.lists(
    st.tuples(st.integers(0, 5_000), st.integers(0, 5_000), st.floats(0.001, 0.999)), max_size=6
)
WEIGHTS = np.repeat([0.01, 0.05, 0.25, 0.5], 5_000)


def _follow(parts: list[tuple[int, int, float]]) -> SampleRatioTest:
    test = SampleRatioTest.start()
    for early, control, weight in parts:
        test = test.update(early, control, weight)
    return test


@given(segments)
def test_json_gives_the_test_back(parts: list[tuple[int, int, float]]) -> None:
    test = _follow(parts)
    assert SampleRatioTest.from_json(json.loads(json.dumps(test.to_json()))) == test


@given(st.integers(0, 900), st.integers(0, 900), st.floats(0.01, 0.99), st.integers(0, 900))
def test_only_the_sums_of_a_segment_matter(
    early: int, control: int, weight: float, cut: int
) -> None:
    cut = min(cut, early, control)
    split = _follow([(cut, cut, weight), (early - cut, control - cut, weight)])
    assert split.e_value == pytest.approx(_follow([(early, control, weight)]).e_value, rel=1e-6)


@given(st.floats(0.01, 0.99))
def test_the_evidence_is_a_martingale_under_the_stated_weight(weight: float) -> None:
    seen = SampleRatioTest.start().update(3, 7, weight)
    mean = weight * seen.update(1, 0, weight).e_value + (1 - weight) * (
        seen.update(0, 1, weight).e_value
    )
    assert mean == pytest.approx(seen.e_value, rel=1e-9)


def _looks(rng: np.random.Generator, arriving_early: float) -> list[bool]:
    """Verdicts at every 100th request over four stages, some early rows lost on the way."""
    early = rng.random(len(WEIGHTS)) < WEIGHTS
    arrived = ~early | (rng.random(len(WEIGHTS)) < arriving_early)
    test, verdicts = SampleRatioTest.start(), []
    for first in range(0, len(WEIGHTS), 100):
        part = slice(first, first + 100)
        came = early[part][arrived[part]]
        test = test.update(int(came.sum()), int((~came).sum()), float(WEIGHTS[first]))
        verdicts.append(test.mismatch(0.05))
    return verdicts


def test_looking_at_every_stage_alarms_falsely_with_at_most_the_stated_chance() -> None:
    rng = np.random.default_rng(71)
    false = [any(_looks(rng, arriving_early=1.0)) for _ in range(300)]
    assert np.mean(false) <= 0.05


def test_a_seventh_of_the_early_arm_lost_is_noticed_across_stages() -> None:
    rng = np.random.default_rng(72)
    found = [_looks(rng, arriving_early=0.857)[-1] for _ in range(50)]
    assert np.mean(found) > 0.95


def test_requests_of_an_arm_without_weight_are_a_contradiction_at_once() -> None:
    assert sample_ratio_mismatch([(1, 999, 0.0)], alpha=1e-9)
    assert sample_ratio_mismatch([(999, 1, 1.0)], alpha=1e-9)
    assert not sample_ratio_mismatch([(0, 999, 0.0), (999, 0, 1.0)], alpha=0.5)


def test_nothing_seen_contradicts_nothing() -> None:
    assert not sample_ratio_mismatch([], alpha=0.5)


@pytest.mark.parametrize(
    ("early", "control", "weight"), [(-1, 0, 0.5), (0, -1, 0.5), (1, 1, 1.1), (1, 1, float("nan"))]
)
def test_impossible_counts_and_weights_are_refused(early: int, control: int, weight: float) -> None:
    with pytest.raises(ValueError):
        SampleRatioTest.start().update(early, control, weight)
