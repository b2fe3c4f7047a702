"""A forecast is chosen on one part and judged on another, and every figure has its interval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.stats.forecast import bounded_mean, forecast, share
from rollout.values import DepthTrace, ExitPoint, ExitPolicy, replay

LAYERS, DEPTH = (2, 4), 8


def policy(probe_cost: float = 0.0, never_early: frozenset[int] = frozenset()) -> ExitPolicy:
    return ExitPolicy(
        "billing", 1, LAYERS, (1.0, 1.0), "", "margin", "", DEPTH, never_early, probe_cost
    )


def one(first: float, right: bool, second: float = 0.992, label: int = 0) -> DepthTrace:
    """The first exit is this sure and right or not; the second one is always right."""
    early = ExitPoint(2, label if right else label + 1, first)
    return DepthTrace((early, ExitPoint(4, label, second)), label, DEPTH)


def drawn(rows: int, generator: np.random.Generator) -> list[DepthTrace]:
    """First exits whose confidence is their true chance to be right."""
    confidences = generator.beta(4, 1, rows)
    rights = generator.random(rows) < confidences
    return [
        one(float(sure), bool(right), float(generator.random()))
        for sure, right in zip(confidences, rights, strict=True)
    ]


def test_the_saving_counts_layers_not_run_less_the_probes_asked() -> None:
    traces = [one(0.995, True)] * 30 + [one(0.1, False)] * 10
    found = forecast(traces, [], traces, policy(probe_cost=0.5), 0.98)
    assert found.threshold is not None and 0.1 < found.threshold <= 0.992
    # Three quarters stop at layer 2 after one probe, the others at layer 4 after two.
    assert found.mean_layers == pytest.approx(0.75 * 2 + 0.25 * 4)
    assert found.saving.value == pytest.approx(1 - (2.5 + 0.5 * (0.75 + 0.5)) / DEPTH)
    assert (found.agreement.value, found.exit_share) == (1.0, 1.0)


def test_the_threshold_comes_from_the_choosing_part_alone() -> None:
    choosing = [one(0.995, True)] * 50 + [one(0.1, False)] * 50
    kind, unkind = [one(0.995, True)] * 40, [one(0.995, False)] * 40
    well, badly = (forecast(choosing, [], part, policy(), 0.98) for part in (kind, unkind))
    assert well.threshold == badly.threshold
    assert well.agreement.value == 1.0
    assert badly.agreement.upper < 0.1


def test_where_no_threshold_reaches_the_target_full_depth_is_right() -> None:
    traces = [one(0.9, row % 2 == 0) for row in range(60)]
    wrong = [
        DepthTrace((*trace.exits[:1], ExitPoint(4, trace.exits[0].answer, 0.5)), 0, DEPTH)
        for trace in traces
    ]
    found = forecast(wrong, [], wrong, policy(), 0.95)
    assert found.threshold is None
    assert (found.saving.value, found.agreement.value, found.exit_share) == (0.0, 1.0, 0.0)
    assert found.mean_layers == DEPTH


def test_exits_that_cost_more_than_they_save_are_not_forecast() -> None:
    traces = [one(0.995, True)] * 40
    assert forecast(traces, [], traces, policy(probe_cost=7.0), 0.95).threshold is None


def test_a_barred_label_is_not_answered_early() -> None:
    traces = [one(0.995, True)] * 20 + [one(0.995, True, label=3)] * 20
    found = forecast(traces, [], traces, policy(never_early=frozenset({3})), 0.95)
    assert found.exit_share == 0.5


def test_a_certificate_needs_rows_and_a_forecast_does_not() -> None:
    few, many = [one(0.995, True)] * 40, [one(0.995, True)] * 500
    assert forecast(few, few, few, policy(), 0.99).certified_saving is None
    assert forecast(many, [], few, policy(), 0.99).certified_saving is None
    assert forecast(few, [], few, policy(), 0.99).saving.value == pytest.approx(0.75)
    assert forecast(few, many, few, policy(), 0.99).certified_saving == pytest.approx(0.75)


def test_intervals_of_the_judging_part_hold_the_truth_at_their_rate() -> None:
    generator = np.random.default_rng(7)
    world = drawn(4000, generator)
    held = {"saving": 0, "agreement": 0}
    runs = 60
    for _ in range(runs):
        choosing, judging = drawn(80, generator), drawn(120, generator)
        found = forecast(choosing, [], judging, policy(probe_cost=0.1), 0.95)
        assert found.threshold is not None
        # The same threshold, judged on far more requests.
        truth = _judged(world, found.threshold)
        held["saving"] += found.saving.lower <= truth[0] <= found.saving.upper
        held["agreement"] += found.agreement.lower <= truth[1] <= found.agreement.upper
    # 95 % intervals: fewer than 51 of 60 has a chance below 1 in 500.
    assert min(held.values()) >= 51, held


def _judged(world: list[DepthTrace], threshold: float) -> tuple[float, float]:
    at = replace(policy(probe_cost=0.1), thresholds=(threshold, threshold))
    results = [replay(trace, at) for trace in world]
    savings = [1 - (one.layers_run + 0.1 * one.probes) / DEPTH for one in results]
    return float(np.mean(savings)), float(np.mean([one.agrees for one in results]))


def test_a_forecast_says_of_its_threshold_what_a_replay_says() -> None:
    traces = drawn(200, np.random.default_rng(3))
    found = forecast(traces, [], traces, policy(probe_cost=0.1), 0.9)
    assert found.threshold is not None
    expected = _judged(traces, found.threshold)
    assert (found.saving.value, found.agreement.value) == pytest.approx(expected)


def test_confidences_that_predict_mismatches_count_before_any_is_seen() -> None:
    unsure = [one(0.9, True, 0.9)] * 30
    assert forecast(unsure, [], unsure, policy(), 0.95).threshold is None
    assert forecast(unsure, [], unsure, policy(), 0.85).threshold is not None


@given(st.lists(st.floats(-0.1, 0.9), min_size=1, max_size=50))
def test_a_mean_lies_in_its_interval_and_the_interval_within_the_bounds(
    values: list[float],
) -> None:
    found = bounded_mean(values, -0.1, 0.9)
    tiny = 1e-9
    assert -0.1 - tiny <= found.lower <= found.value + tiny
    assert found.value - tiny <= found.upper <= 0.9 + tiny
    assert found.lower < found.upper


def test_equal_values_still_leave_room_for_what_was_not_seen() -> None:
    found = bounded_mean([0.5] * 20, 0.0, 0.5)
    assert found.upper == pytest.approx(0.5)
    # The rule of three, two-sided: 1 - 0.025^(1/20).
    assert found.lower == pytest.approx(0.5 * 0.025 ** (1 / 20))


def test_nothing_has_no_share_no_mean_and_no_forecast() -> None:
    for call in (
        lambda: share([]),
        lambda: bounded_mean([], 0.0, 1.0),
        lambda: forecast([], [], [one(0.9, True)], policy(), 0.95),
        lambda: forecast([one(0.9, True)], [], [], policy(), 0.95),
        lambda: forecast([one(0.9, True)], [], [one(0.9, True)], policy(), 1.0),
    ):
        with pytest.raises(ValueError):
            call()
