"""Thresholds are chosen at every look, and seldom one whose risk is over the limit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.stats.ladder import ThresholdLadder, alpha_share
from rollout.stats.promotion import PromotionTest
from rollout.stats.thresholds import threshold_losses

THRESHOLDS = (0.9, 0.8, 0.7)
losses = st.lists(
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).map(tuple), max_size=80
).map(lambda rows: np.array(rows).reshape(-1, 3))


def _start(limit: float = 0.05, alpha: float = 0.05) -> ThresholdLadder:
    return ThresholdLadder.start(THRESHOLDS, limit, alpha)


@given(losses, st.integers(0, 80))
def test_the_split_into_batches_does_not_matter_to_the_last_bit(
    seen: np.ndarray[Any, Any], cut: int
) -> None:
    start = _start(limit=0.4, alpha=0.5)
    assert start.update(seen[:cut]).update(seen[cut:]) == start.update(seen)


@given(losses)
def test_json_gives_the_ladder_back(seen: np.ndarray[Any, Any]) -> None:
    ladder = _start(limit=0.4).update(seen)
    assert ThresholdLadder.from_json(json.loads(json.dumps(ladder.to_json()))) == ladder


@given(st.lists(st.booleans(), max_size=200))
def test_each_threshold_has_the_evidence_of_a_promotion_test(differs: list[bool]) -> None:
    ladder = _start().update(np.repeat(np.array(differs, bool)[:, None], 3, axis=1))
    test = PromotionTest.start(0.95).update(~np.array(differs, dtype=bool))
    assert ladder.e_values == pytest.approx((test.e_value,) * 3, rel=1e-9)


def test_a_bold_threshold_is_not_certified_past_a_safer_one_that_is_not() -> None:
    rows = np.tile([[False, True, False]], (300, 1))
    ladder = _start().update(rows)
    assert ladder.passed == (True, False, True)
    assert ladder.threshold == 0.9
    assert _start().certified is None


def test_what_was_certified_stays_so_while_the_evidence_runs_on() -> None:
    good = _start().update(np.zeros((100, 3)))
    later = good.update(np.ones((50, 3)))
    assert good.certified == later.certified == 2
    assert max(later.e_values) < 1.0


def test_a_rare_severe_loss_weighs_more_than_a_slight_one() -> None:
    severities = np.tile([[0.0, 0.1, 1.0]], (20, 1))
    safe, slight, severe = _start().update(severities).e_values
    assert safe > slight > severe


def test_the_forecast_is_when_it_passes_if_all_goes_on() -> None:
    ladder = _start().update(np.tile([[0.0, 0.01, 1.0]], (20, 1)))
    assert ladder.expected_more(2) is None
    for index in (0, 1):
        more = ladder.expected_more(index)
        assert more is not None
        column = np.zeros((more, 3))
        column[:, 1] = 0.01
        assert ladder.update(column).passed[index]
        assert not ladder.update(column[1:]).passed[index]
        assert ladder.update(column).expected_more(index) == 0


def test_a_threshold_over_the_limit_is_ever_certified_with_at_most_the_stated_chance() -> None:
    rng = np.random.default_rng(41)
    # Risks nested as those of real thresholds: 1.8 %, 2.01 %, 2.4 %; the limit lies at 2 %.
    risks, runs, wrong, right = np.array([0.018, 0.0201, 0.024]), 500, 0, 0
    for _ in range(runs):
        ladder = _start(limit=0.02).update(rng.random((4_000, 1)) < risks)
        certified = -1 if ladder.certified is None else ladder.certified
        wrong += certified >= 1
        right += certified >= 0
    assert wrong / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    assert right > 2 * wrong


def test_unequal_sampling_is_undone_by_weights() -> None:
    rng = np.random.default_rng(42)
    runs, wrong, wrong_unweighted = 300, 0, 0
    for _ in range(runs):
        hard = rng.random(6_000) < 0.3
        # Where requests are hard the early answer is right; easy ones are wrong in 8 %: risk 5.6 %.
        differs = (rng.random(6_000) < 0.08) & ~hard
        probability = np.where(hard, 1.0, 0.2)
        taken = rng.random(6_000) < probability
        rows = np.repeat(differs[taken][:, None], 3, axis=1)
        wrong += _start().update(rows, probability[taken], lowest=0.2).certified is not None
        wrong_unweighted += _start().update(rows).certified is not None
    assert wrong / runs <= 0.05
    assert wrong_unweighted / runs > 0.5


def test_all_ladders_of_a_domain_share_one_alpha() -> None:
    shares = [alpha_share(0.05, number) for number in range(1, 5_000)]
    assert 0.0499 < sum(shares) <= 0.05
    assert shares == sorted(shares, reverse=True)
    with pytest.raises(ValueError, match="number"):
        alpha_share(0.05, 0)


@given(st.integers(0, 2**32 - 1))
def test_losses_of_thresholds_are_those_of_the_first_exit_taken(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, agrees = rng.random((30, 3)).round(1), rng.random((30, 3)) < 0.7
    confidence[rng.random((30, 3)) < 0.1] = np.nan
    allowed, severity = rng.random((30, 3)) < 0.9, rng.random((30, 3))
    found = threshold_losses(confidence, agrees, allowed, (0.9, 0.5, 0.1), severity)
    for row in range(30):
        for column, threshold in enumerate((0.9, 0.5, 0.1)):
            expected = 0.0
            for exit_ in range(3):
                if allowed[row, exit_] and confidence[row, exit_] >= threshold:
                    expected = 0.0 if agrees[row, exit_] else severity[row, exit_]
                    break
            assert found[row, column] == expected


@pytest.mark.parametrize(
    ("thresholds", "limit", "alpha"),
    [
        ([], 0.05, 0.05),
        ([0.5, 0.9], 0.05, 0.05),
        ([0.9, 0.9], 0.05, 0.05),
        ([1.1, 0.9], 0.05, 0.05),
        ([0.9, -0.1], 0.05, 0.05),
        ([0.9], 0.0, 0.05),
        ([0.9], 1.5, 0.05),
        ([0.9], 0.05, 0.0),
        ([0.9], 0.05, float("nan")),
    ],
)
def test_a_ladder_that_makes_no_sense_is_refused(
    thresholds: list[float], limit: float, alpha: float
) -> None:
    with pytest.raises(ValueError):
        ThresholdLadder.start(thresholds, limit, alpha)


@pytest.mark.parametrize(
    "wrong", [[[0.1, 0.2]], [0.1, 0.2, 0.3], [[0.0, 0.0, 1.1]], [[-0.1, 0, 0]], [[np.nan, 0, 0]]]
)
def test_losses_of_a_wrong_shape_or_range_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="loss"):
        _start().update(wrong)
