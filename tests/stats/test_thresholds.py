"""A chosen threshold keeps its risk, and saves the most of those that do."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.stats.thresholds import ThresholdChoice, choose_threshold
from rollout.values import DepthTrace, ExitPoint, ExitPolicy, replay


def _choose(confidence: Any, agrees: Any, **changes: Any) -> ThresholdChoice | None:
    confidence = np.asarray(confidence, dtype=float)
    exits = confidence.shape[1]
    arguments: dict[str, Any] = {
        "allowed": np.ones(confidence.shape, bool),
        "exit_layers": list(range(2, 2 + exits)),
        "depth": 8,
        "probe_cost": 0.1,
        "risk_limit": 0.02,
        "alpha": 0.05,
    }
    return choose_threshold(confidence, agrees, **(arguments | changes))


def test_a_threshold_just_over_the_limit_is_certified_with_nearly_the_stated_chance() -> None:
    rng = np.random.default_rng(31)
    # Where the error is (1 - confidence) / 2, a threshold's risk is (1 - threshold)^2 / 4.
    just_over = 1 - (4 * 0.0201) ** 0.5
    proposing = np.array([[just_over], [0.8], [0.9]])
    runs = failures = chosen = 0
    for _ in range(1_200):
        confidence = np.concatenate([proposing, rng.random((2_000, 1))])
        agrees = rng.random(confidence.shape) >= (1 - confidence) / 2
        choice = _choose(confidence, agrees, choose_on=np.arange(len(confidence)) < 3)
        runs += 1
        chosen += choice is not None
        failures += choice is not None and choice.threshold <= just_over
    assert chosen == runs
    assert 0.025 <= failures / runs <= 0.065


def test_the_certified_threshold_with_the_largest_net_saving_is_chosen() -> None:
    rng = np.random.default_rng(32)
    confidence = rng.random((4_000, 3))
    choice = _choose(confidence, rng.random((4_000, 3)) < confidence**0.05)
    assert choice is not None
    assert choice.net_saving == max(row.net_saving for row in choice.tried if row.certified)
    assert choice.certified_risk <= 0.02
    assert any(not row.certified for row in choice.tried)


def test_nothing_is_certified_after_the_first_failure() -> None:
    rng = np.random.default_rng(33)
    choice = _choose(rng.random((2_000, 2)), rng.random((2_000, 2)) < 0.97)
    assert choice is not None
    flags = [row.certified for row in choice.tried]
    assert flags == sorted(flags, reverse=True)
    assert [row.threshold for row in choice.tried] == sorted(
        (row.threshold for row in choice.tried), reverse=True
    )


def test_a_lower_threshold_that_happens_to_be_right_is_not_reached_past_a_failure() -> None:
    # The deep exit errs at 0.9; the shallow one would pre-empt it at 0.5, always right.
    confidence = np.tile([0.5, 0.9], (2_000, 1))
    agrees = np.column_stack([np.ones(2_000), np.arange(2_000) % 10 != 3])
    choice = _choose(confidence, agrees)
    assert choice is not None
    assert choice.threshold == 1.0
    assert [(row.threshold, row.certified) for row in choice.tried] == [
        (1.0, True),
        (0.9, False),
        (0.5, False),
    ]
    assert choice.tried[-1].mismatches == 0


@given(st.integers(0, 2**32 - 1))
def test_each_candidate_is_judged_as_the_replay_of_its_traces(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, layers = 40, (2, 4, 6)
    confidence = rng.random((rows, 3)).round(2)
    confidence[rng.random((rows, 3)) < 0.1] = np.nan
    answers = rng.integers(0, 3, (rows, 3))
    full = rng.integers(0, 3, rows)
    choice = _choose(
        confidence,
        answers == full[:, None],
        allowed=answers != 2,
        exit_layers=layers,
        risk_limit=0.99,
        choose_on=np.arange(rows) < 10,
    )
    assert choice is not None
    for row in choice.tried:
        policy = ExitPolicy(
            "billing", 1, layers, (row.threshold,) * 3, "", "", "", 8, frozenset({2}), 0.1
        )
        replays = [
            replay(
                DepthTrace(
                    tuple(
                        ExitPoint(layer, int(answer), float(sure))
                        for layer, answer, sure in zip(
                            layers, answers[index], confidence[index], strict=True
                        )
                    ),
                    int(full[index]),
                    8,
                ),
                policy,
            )
            for index in range(10, rows)
        ]
        assert row.mismatches == sum(not one.agrees for one in replays)
        assert row.mean_layers == pytest.approx(np.mean([one.layers_run for one in replays]))
        cost = np.mean([one.layers_run + 0.1 * one.probes for one in replays])
        assert row.net_saving == pytest.approx(1 - cost / 8)


def test_slight_mistakes_may_be_more_than_severe_ones() -> None:
    rng = np.random.default_rng(34)
    confidence, agrees = rng.random((4_000, 2)), rng.random((4_000, 2)) < 0.97
    slight = _choose(confidence, agrees, severity=np.full((4_000, 2), 0.3))
    severe = _choose(confidence, agrees)
    assert slight is not None and severe is not None
    assert slight.threshold < severe.threshold
    assert slight.certified_risk <= 0.02
    for row in slight.tried:
        assert row.risk == pytest.approx(0.3 * row.mismatches / slight.rows)


def test_rows_that_propose_certify_nothing() -> None:
    choice = _choose(
        np.full((1_000, 1), 0.9), np.ones((1_000, 1)), choose_on=np.arange(1_000) < 400
    )
    assert choice is not None
    assert choice.rows == 600


def test_too_few_rows_certify_nothing() -> None:
    assert _choose(np.full((100, 1), 0.9), np.ones((100, 1))) is None
    assert _choose(np.empty((0, 1)), np.empty((0, 1))) is None


def test_an_unknown_confidence_never_exits() -> None:
    choice = _choose(np.full((1_000, 2), np.nan), np.ones((1_000, 2)))
    assert choice is not None
    assert choice.mean_layers == 8
    assert choice.net_saving < 0


def test_json_gives_the_choice_back() -> None:
    choice = _choose(np.full((1_000, 1), 0.9), np.ones((1_000, 1)))
    assert choice is not None
    assert ThresholdChoice.from_json(json.loads(json.dumps(choice.to_json()))) == choice


@pytest.mark.parametrize(
    "changes",
    [
        {"exit_layers": [2]},
        {"exit_layers": [4, 2]},
        {"exit_layers": [2, 8]},
        {"risk_limit": 0.0},
        {"alpha": 1.0},
        {"probe_cost": -1.0},
        {"allowed": np.ones((3, 3), bool)},
        {"choose_on": [True]},
        {"severity": np.full((10, 2), 1.5)},
    ],
)
def test_inputs_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        _choose(np.full((10, 2), 0.5), np.ones((10, 2)), **changes)


def test_confidence_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        _choose(np.full((10, 2), 1.5), np.ones((10, 2)))
