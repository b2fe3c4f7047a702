"""p-values, bounds and conformal choices hold what they say, for mismatches and for severities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rollout.stats.risk import conformal_choice, risk_p_value, risk_upper_bound

severities = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=150)
mismatches = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=150)


@given(severities | mismatches, st.sampled_from([0.05, 0.2]))
def test_the_bound_is_the_limit_at_which_the_p_value_is_alpha(
    losses: list[float], alpha: float
) -> None:
    bound = risk_upper_bound(losses, alpha)
    assert np.mean(losses) <= bound <= 1.0
    if bound < 0.999:
        assert risk_p_value(losses, bound) == pytest.approx(alpha, rel=0.02)


@given(severities | mismatches, st.floats(0.01, 0.5), st.floats(0.01, 0.4))
def test_a_higher_limit_is_easier_to_keep(losses: list[float], limit: float, more: float) -> None:
    assert risk_p_value(losses, limit + more) <= risk_p_value(losses, limit)


def _severe(rng: np.random.Generator, rows: int, mean: float) -> NDArray[np.float64]:
    """Losses that are often 0, sometimes slight, seldom 1."""
    return np.where(rng.random(rows) < mean / 0.4, rng.choice([0.2, 1.0], rows, p=[0.75, 0.25]), 0)


def test_a_risk_at_the_limit_is_rejected_with_at_most_the_stated_chance() -> None:
    rng = np.random.default_rng(81)
    p_values = [risk_p_value(_severe(rng, 600, 0.0501), 0.05) for _ in range(1_000)]
    assert 0.005 <= np.mean(np.array(p_values) <= 0.05) <= 0.05


def test_half_the_risk_is_certified_by_some_hundred_rows() -> None:
    rng = np.random.default_rng(82)
    assert np.mean([risk_p_value(_severe(rng, 350, 0.02), 0.05) <= 0.05 for _ in range(200)]) > 0.8


def test_nothing_seen_certifies_nothing() -> None:
    assert risk_p_value([], 0.05) == risk_upper_bound([], 0.05) == 1.0
    assert conformal_choice(np.empty((0, 3)), 0.05) is None


@given(st.integers(0, 2**32 - 1))
def test_a_bolder_limit_never_chooses_a_safer_threshold(seed: int) -> None:
    losses = np.random.default_rng(seed).random((40, 6)) * np.linspace(0.01, 0.5, 6)
    chosen = [conformal_choice(losses, limit) for limit in (0.01, 0.05, 0.1, 0.3, 0.9)]
    indices = [-1 if choice is None else choice for choice in chosen]
    assert indices == sorted(indices)


def test_the_expected_risk_of_the_conformal_choice_is_near_the_limit_and_not_above() -> None:
    rng = np.random.default_rng(83)
    grid = np.linspace(0.0, 0.2, 81)
    risks = []
    for _ in range(1_500):
        # A row is wrong for all thresholds bolder than its own level: the risk is the grid itself.
        levels = rng.random((200, 1))
        choice = conformal_choice((levels <= grid).astype(float), 0.05)
        risks.append(0.0 if choice is None else grid[choice])
    assert 0.04 <= np.mean(risks) <= 0.05
    assert np.mean(np.array(risks) > 0.05) > 0.2


def test_losses_that_fall_with_a_bolder_threshold_are_taken_at_their_worst() -> None:
    losses = np.tile([[1.0, 0.0]], (100, 1))
    assert conformal_choice(losses, 0.5) is None


@pytest.mark.parametrize("wrong", [[1.1], [-0.1], [float("nan")], [[0.1]]])
def test_losses_outside_zero_to_one_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="loss"):
        risk_p_value(wrong, 0.05)


@pytest.mark.parametrize(("losses", "limit"), [([[0.5]], 0.0), ([0.5], 0.1), ([[1.5]], 0.1)])
def test_a_conformal_choice_that_makes_no_sense_is_refused(losses: Any, limit: float) -> None:
    with pytest.raises(ValueError):
        conformal_choice(losses, limit)
