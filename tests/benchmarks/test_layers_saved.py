"""How layers saved are counted; what is saved is never a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import names
from benchmarks.layers_saved import Judged, certified, judge, measure, summary
from benchmarks.reference import FOLDER_VARIABLE
from benchmarks.reference.sets import Row, TextSet
from rollout.engine.calibration import Calibration
from rollout.engine.costs import Costs
from rollout.engine.heads import ExitHeads
from rollout.values import DepthTrace, ExitPoint, ExitPolicy, RolloutError
from tests.test_benchmarks import run

SET = TextSet("mails", ("a", "b"), "{{ text }}:", (), ())
ROW = Row("1", "text", "b")


def traces(count: int, wrong_below: float, seed: int) -> tuple[DepthTrace, ...]:
    """Two exits of eight layers; the first one's answer is right from a confidence on."""
    sure = np.random.default_rng(seed).random(count)
    return tuple(
        DepthTrace(
            (ExitPoint(2, int(each >= wrong_below), float(each)), ExitPoint(5, 1, 0.5)), 1, 8
        )
        for each in sure
    )


def fitted(proposing: tuple[DepthTrace, ...]) -> Calibration:
    return Calibration(ExitHeads({}, "margin", "", ""), (), Costs(1.0, 0.25), proposing, 0.0)


def test_without_a_reference_model_the_command_that_trains_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(RolloutError, match=r"python -m benchmarks\.train_reference"):
        measure(quick=True)
    for name in ("layers_saved", "reference_model"):
        code, output = run(name, "--quick")
        assert code == 2
        assert "python -m benchmarks.train_reference" in output


def test_only_what_measures_is_listed() -> None:
    assert "layers_saved" in names() and "reference_model" in names()
    assert not {"form", "keeping", "train_reference", "reference"} & set(names())


def test_too_few_rows_certify_nothing_and_say_so() -> None:
    policy, reason = certified(fitted(traces(200, 0.2, 0)), traces(298, 0.0, 1), "")
    assert policy is None
    assert reason == "298 rows cannot certify 99% (299 could)"


def test_the_threshold_is_proposed_and_certified_on_separate_rows() -> None:
    policy, reason = certified(fitted(traces(200, 0.3, 0)), traces(2000, 0.3, 1), "")
    assert policy is not None and reason == ""
    assert 0.28 < policy.thresholds[0] < 0.4
    # The proposing rows look harmless; the certifying ones know better.
    policy, reason = certified(fitted(traces(200, 0.0, 0)), traces(2000, 2.0, 1), "")
    assert (policy, reason) == (None, "no certified threshold saves anything")


def test_a_row_costs_its_layers_and_the_probes_on_its_way() -> None:
    policy = ExitPolicy("", 1, (2, 5), (0.9, 0.4), "", "margin", "", 8, probe_cost=0.25)
    first = DepthTrace((ExitPoint(2, 0, 0.95), ExitPoint(5, 1, 0.5)), 1, 8)
    second = DepthTrace((ExitPoint(2, 0, 0.8), ExitPoint(5, 1, 0.5)), 1, 8)
    neither = DepthTrace((ExitPoint(2, 0, 0.8), ExitPoint(5, 1, 0.3)), 1, 8)
    judged = [judge(ROW, trace, policy) for trace in (first, second, neither)]
    assert [one.layers for one in judged] == [2.25, 5.5, 8.5]
    assert [one.answer for one in judged] == [0, 1, 1]


def test_a_set_at_full_depth_saves_nothing_and_agrees() -> None:
    judged = [judge(ROW, trace, None) for trace in traces(50, 0.5, 0)]
    found = summary(SET, fitted(()), judged, [None], {"why"})
    assert found["layers_saved"] == 0.0 and found["agreement"] == 1.0
    assert found["note"] == "why"


@pytest.mark.parametrize(("wrong", "within"), [(0, True), (12, True), (30, False)])
def test_a_bound_is_broken_only_where_the_whole_interval_lies_below_it(
    wrong: int, within: bool
) -> None:
    judged = [Judged(ROW, 1, int(place >= wrong), 8, 2.0, True) for place in range(1000)]
    found = summary(SET, fitted(()), judged, [0.5], set())
    assert found["within_bound"] is within
    assert found["agreement"] == 1 - wrong / 1000
    assert found["layers_saved"] == 0.75
    assert found["full_accuracy"] == 1.0 and found["early_accuracy"] == 1 - wrong / 1000
