"""Exits stand where they save most, net of their probes and within the tolerated risk."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.engine.costs import LoopCosts
from rollout.engine.placement import expected_saving, place_exits, working_limit
from rollout.stats.traces import trace_arrays
from rollout.values import DepthTrace, ExitPoint, ExitPolicy, replay

DEPTH = 12


def random_traces(seed: int, rows: int, layers: list[int]) -> list[DepthTrace]:
    """Deeper exits agree more often, and are surer."""
    random = np.random.default_rng(seed)
    traces = []
    for _ in range(rows):
        points = []
        for layer in layers:
            sure = float(random.beta(1 + layer, 2))
            points.append(ExitPoint(layer, int(random.random() > sure), sure))
        traces.append(DepthTrace(tuple(points), 0, DEPTH))
    return traces


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), limit=st.sampled_from([0.02, 0.1, 0.3]))
def test_the_expected_saving_is_what_a_replay_saves(seed: int, limit: float) -> None:
    layers = [2, 5, 9]
    traces = random_traces(seed, 60, layers)
    found = expected_saving(*trace_arrays(traces, frozenset()), layers, DEPTH, 0.1, limit)
    policy = ExitPolicy("d", 1, (2, 5, 9), (found.threshold,) * 3, "", "margin", "", DEPTH)
    replays = [replay(trace, policy) for trace in traces]
    spent = np.mean([one.layers_run + 0.1 * one.probes for one in replays])
    if found.threshold < 1.0:
        assert found.net_saving == pytest.approx(1 - spent / DEPTH)
        assert np.mean([not one.agrees for one in replays]) <= found.risk + 1e-9
    assert found.risk <= limit


def test_a_few_rows_without_a_mismatch_do_not_make_doubt_safe() -> None:
    confidence = np.full((20, 1), 0.9)
    everybody = np.ones((20, 1), dtype=bool)
    found = expected_saving(confidence, everybody, everybody, [4], DEPTH, 0.0, 0.05)
    assert (found.threshold, found.net_saving) == (1.0, 0.0)


def test_few_candidates_are_placed_exactly() -> None:
    layers = [1, 3, 5, 7, 9, 11]
    arrays = trace_arrays(random_traces(3, 120, layers), frozenset())
    placed = place_exits(*arrays, layers, DEPTH, 0.2, 0.1)

    def saving(subset: tuple[int, ...]) -> float:
        places = [layers.index(layer) for layer in subset]
        part = [array[:, places] for array in arrays]
        return expected_saving(*part, subset, DEPTH, 0.2, 0.1).net_saving

    subsets = [subset for size in range(1, 7) for subset in itertools.combinations(layers, size)]
    assert saving(placed) == max(map(saving, subsets))


def test_many_candidates_are_placed_no_worse_than_evenly() -> None:
    layers = list(range(1, 12))
    arrays = trace_arrays(random_traces(4, 120, layers), frozenset())
    placed = place_exits(*arrays, layers, DEPTH, 0.2, 0.1)
    for stride in (1, 2, 3):
        places = list(range(0, 11, stride))
        part = [array[:, places] for array in arrays]
        evenly = expected_saving(*part, [layers[p] for p in places], DEPTH, 0.2, 0.1).net_saving
        chosen = [array[:, [layers.index(layer) for layer in placed]] for array in arrays]
        assert expected_saving(*chosen, placed, DEPTH, 0.2, 0.1).net_saving >= evenly


def test_dear_probes_leave_one_exit() -> None:
    layers = [2, 4, 6, 8]
    arrays = trace_arrays(random_traces(5, 80, layers), frozenset())
    assert len(place_exits(*arrays, layers, DEPTH, 6.0, 0.1)) == 1


def test_the_working_limit_is_what_the_exact_test_lets_pass() -> None:
    assert working_limit(0.02, 149, 0.05) == 0.01
    for rows in (300, 1000, 5000):
        assert 0 < working_limit(0.02, rows, 0.05) < 0.02


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.floats(0.0, 50.0))
def test_a_batch_is_divided_only_where_that_is_cheaper(lengths: list[int], call_ms: float) -> None:
    costs = LoopCosts(call_ms=call_ms, token_ms=1.0, gather_ms=0.0)
    parts = costs.split(lengths, 4, 0)
    assert sorted(place for part in parts for place in part) == list(range(len(lengths)))

    def cost(division: list[list[int]]) -> float:
        return sum(2 * call_ms + max(lengths[p] for p in part) * len(part) for part in division)

    assert cost(parts) <= cost([list(range(len(lengths)))]) + 1e-9
    assert cost(parts) <= cost([[place] for place in range(len(lengths))]) + 1e-9


def test_rows_are_taken_out_only_where_that_pays() -> None:
    costs = LoopCosts(call_ms=1.0, token_ms=0.1, gather_ms=5.0)
    assert costs.compacting_pays(2, 100, 60)
    assert not costs.compacting_pays(1, 100, 60)
