"""Unequal sampling probabilities and unequal severities leave the stated error rate as it is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.stats.promotion import PromotionTest
from rollout.stats.weighted import WeightedPromotionTest

observations = st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.1, 1.0)), max_size=120)
floors = st.floats(0.5, 0.99)


def _update(test: WeightedPromotionTest, seen: list[tuple[float, float]]) -> WeightedPromotionTest:
    return test.update([loss for loss, _ in seen], [chance for _, chance in seen], 0.1)


@given(floors, observations, st.integers(0, 120))
def test_the_split_into_batches_does_not_matter_to_the_last_bit(
    floor: float, seen: list[tuple[float, float]], cut: int
) -> None:
    start = WeightedPromotionTest.start(floor)
    assert _update(_update(start, seen[:cut]), seen[cut:]) == _update(start, seen)


@given(floors, observations)
def test_json_gives_the_test_back(floor: float, seen: list[tuple[float, float]]) -> None:
    test = _update(WeightedPromotionTest.start(floor), seen)
    assert WeightedPromotionTest.from_json(json.loads(json.dumps(test.to_json()))) == test


@given(floors, st.lists(st.booleans(), max_size=300), st.floats(0.001, 1.0))
def test_equal_probabilities_make_it_the_promotion_test(
    floor: float, differs: list[bool], probability: float
) -> None:
    unweighted = PromotionTest.start(floor).update(~np.array(differs, dtype=bool))
    weighted = WeightedPromotionTest.start(floor).update(
        differs, [probability] * len(differs), lowest=probability
    )
    assert weighted.log_e_value == pytest.approx(unweighted.log_e_value, rel=1e-9, abs=1e-9)


@given(floors, st.floats(0.0, 1.0), st.floats(0.1, 1.0), st.floats(0.1, 1.0))
def test_the_expected_factor_is_one_at_the_floor_whatever_the_probabilities(
    floor: float, share_hard: float, hard_chance: float, easy_chance: float
) -> None:
    # One request: hard with `share_hard`; loss 1 with the same chance 1 - floor in both kinds.
    start, mean = WeightedPromotionTest.start(floor), 0.0
    for share, chance in ((share_hard, hard_chance), (1 - share_hard, easy_chance)):
        for loss, likely in ((1.0, 1 - floor), (0.0, floor)):
            sampled = start.update([loss], [chance], lowest=0.1).e_value
            mean += share * likely * (chance * sampled + (1 - chance) * 1.0)
    assert mean == pytest.approx(1.0, rel=1e-9)


@given(floors, observations, st.floats(0.0, 0.9), st.floats(0.1, 1.0))
def test_a_larger_loss_is_less_evidence(
    floor: float, seen: list[tuple[float, float]], loss: float, chance: float
) -> None:
    test = _update(WeightedPromotionTest.start(floor), seen)
    less, more = (_update(test, [(value, chance)]).log_e_value for value in (loss, loss + 0.1))
    assert less > more


def _false_promotions(severe: bool, weigh: bool) -> float:
    """Share of 400 runs of 4,000 requests that ever promote; the truth is just under 0.95."""
    rng = np.random.default_rng(51)
    promoted, start = 0, WeightedPromotionTest.start(0.95)
    for _ in range(400):
        hard = rng.random(4_000) < 0.2
        # Mean loss 0.8 * 0.06 + 0.2 * 0.011 = 0.0502. Easy requests err, hard ones are sampled.
        rate = np.where(hard, 0.011, 0.06)
        loss = np.where(rng.random(4_000) < (2 * rate if severe else rate), 1.0, 0.0)
        if severe:
            loss *= rng.choice([0.2, 0.8], 4_000)
        chance = np.where(hard, 1.0, 0.2)
        taken = rng.random(4_000) < chance
        test, losses, chances = start, loss[taken], chance[taken]
        for first in range(0, len(losses), 100):
            part = slice(first, first + 100)
            test = test.update(losses[part], chances[part] if weigh else None, 0.2)
            if test.e_value >= 20.0:
                promoted += 1
                break
    return promoted / 400


@pytest.mark.parametrize("severe", [False, True])
def test_a_policy_just_under_the_floor_is_promoted_with_at_most_the_stated_chance(
    severe: bool,
) -> None:
    assert _false_promotions(severe, weigh=True) <= 0.05
    assert _false_promotions(severe, weigh=False) > 0.15


def test_the_forecast_is_when_it_promotes_if_all_goes_on() -> None:
    test = WeightedPromotionTest.start(0.95).update([0.0] * 30, [0.4] * 30, lowest=0.2)
    more = test.expected_more(0.05)
    assert more is not None
    assert test.update([0.0] * more, [0.4] * more, 0.2).e_value >= 20
    assert test.update([0.0] * (more - 1), [0.4] * (more - 1), 0.2).e_value < 20
    assert WeightedPromotionTest.start(0.95).expected_more(0.05) is None
    assert test.update([1.0] * 30).expected_more(0.05) is None


@pytest.mark.parametrize(
    ("losses", "probabilities", "lowest"),
    [
        ([0.5], [0.0], 0.0),
        ([0.5], [1.2], 0.2),
        ([0.5], [-0.1], 0.1),
        ([0.5], [float("nan")], 0.1),
        ([0.5], [0.1], 0.2),
        ([0.5], [0.1], 0.0),
        ([0.5], [0.1, 0.1], 0.1),
        ([1.5], [0.5], 0.1),
        ([-0.5], [0.5], 0.1),
        ([float("nan")], [0.5], 0.1),
        ([[0.5]], [0.5], 0.1),
    ],
)
def test_impossible_losses_and_probabilities_are_refused(
    losses: Any, probabilities: list[float], lowest: float
) -> None:
    with pytest.raises(ValueError):
        WeightedPromotionTest.start(0.95).update(losses, probabilities, lowest)


@pytest.mark.parametrize("floor", [0.0, 1.0, float("nan")])
def test_a_floor_outside_its_range_is_refused(floor: float) -> None:
    with pytest.raises(ValueError, match="floor"):
        WeightedPromotionTest.start(floor)
