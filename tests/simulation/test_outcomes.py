"""What a path came to, and the two controllers it is held against."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from rollout.control.durations import FreezeWindow
from rollout.control.schema import CostSpec
from rollout.simulation.baselines import Window, lost, oracle
from rollout.simulation.many import FEW, play_many, processes
from rollout.simulation.outcome import Outcome, outcome_of
from rollout.simulation.path import Move, Path
from rollout.simulation.summary import summary_of
from rollout.simulation.synthetic import simulate
from rollout.simulation.truth import Truth, truth_of
from tests.simulation.examples import a_future, a_spec, all_labels

HOUR = timedelta(hours=1)
SPEC = a_spec()
BROKEN = a_future(events=[{"at": "2d", "last": "1d", "agreement": 0.9}])
COST = CostSpec(currency="JPY", accelerator_hour=450)


def at(weight: float, ticks: int = 120, shadow: float = 0.0, *moves: Move) -> Path:
    return Path(np.full(ticks, weight), np.full(ticks, shadow), moves)


def judged(path: Path, scenario: Any = BROKEN) -> Outcome:
    truth = truth_of(scenario, SPEC)
    return outcome_of(SPEC, truth, scenario.spared, path, oracle(SPEC, truth, None))


def windowed(truth: Truth, **keys: Any) -> Path:
    window = Window(**{"every": HOUR, "threshold": 0.95, "failures": 3} | keys)
    return window.path(SPEC, truth, None, np.random.default_rng(0))


def test_harm_is_what_was_answered_early_times_what_was_wrong() -> None:
    healthy = 1 - (0.7 * 0.992 + 0.3 * 0.988)
    expected = 0.5 * 120 * (96 * healthy + 24 * 0.1)
    assert judged(at(0.5)).harm == pytest.approx(expected)
    assert judged(at(0.0)).harm == 0


def test_saving_is_what_exits_spare_less_what_shadows_cost() -> None:
    exits = 0.7 * 0.7 + 0.3 * 0.5
    assert judged(at(1.0)).saving == pytest.approx(120 * 120 * exits * 0.5)
    assert judged(at(1.0, shadow=0.1)).saving == pytest.approx(0.9 * judged(at(1.0)).saving)


def test_time_in_the_wrong_stage_counts_both_ways() -> None:
    stayed, never = judged(at(1.0)), judged(at(0.0))
    assert (stayed.over_h, never.over_h) == (24, 0)
    assert stayed.under_h == 0
    assert never.under_h == 96 - 1  # the first hour is the dwell in shadow


def test_a_step_down_in_time_has_a_delay_and_a_late_one_is_none() -> None:
    weight = np.ones(120)
    weight[52:] = 0
    down = Move(51, "roll_back", "target_alarm", 1.0, 0.0)
    told = judged(Path(weight, np.zeros(120), (down,)))
    assert (told.delays_h, told.undetected, told.over_h) == ((4.0,), 0, 4)
    untold = judged(at(1.0))
    assert (untold.delays_h, untold.undetected) == ((), 1)


def test_steps_down_are_false_on_target_only_and_blind_ones_are_neither() -> None:
    moves = (
        Move(10, "narrow", "short_of_target", 1.0, 0.5),
        Move(50, "roll_back", "target_alarm", 0.5, 0.0),
        Move(80, "narrow", "blind", 0.5, 0.0),
    )
    told = judged(at(1.0, 120, 0.0, *moves))
    assert (told.step_downs, told.false_step_downs, told.blind_steps) == (2, 1, 1)


def test_a_promotion_while_agreement_is_lost_is_a_false_one() -> None:
    moves = (
        Move(10, "promote", "certified", 0.0, 0.01),
        Move(50, "promote", "certified", 0.01, 0.05),
    )
    told = judged(at(1.0, 120, 0.0, *moves))
    assert (told.promotions, told.false_promotions) == (2, 1)


def test_errors_that_cost_less_count_less_for_controller_and_oracle() -> None:
    event = {"at": "2d", "labels": ["refund"], "agreement": 0.8}
    scenario = a_future(events=[event])
    mild = a_spec(agreement={"severity": {"refund": 0.1}})
    grave, light = truth_of(scenario, SPEC), truth_of(scenario, mild)
    assert lost(SPEC, grave)[-1] and not lost(mild, light)[-1]
    assert light.judged_agreement[-1] == pytest.approx(1 - 0.7 * 0.008 - 0.3 * 0.2 * 0.1)
    walked = list(simulate(mild, light, None, 0))
    costs = {one.loss for step in walked for one in step.arrivals.comparisons}
    assert costs == {0.0, 0.1, 1.0}
    assert walked[-1].state.stage == 5


# --- the oracle ---------------------------------------------------------------------------------


def test_the_oracle_serves_no_request_while_agreement_is_lost() -> None:
    truth = truth_of(BROKEN, SPEC)
    path = oracle(SPEC, truth, None)
    assert path.weight.max() == 1.0
    assert not path.weight[lost(SPEC, truth)].any()


def test_the_oracle_dwells_cools_down_and_keeps_the_calendar_like_the_spec() -> None:
    spec = a_spec(dwell="5h", freeze=["Tue 00:00 - Tue 12:00 UTC"], rollback={"cooldown": "30h"})
    truth = truth_of(BROKEN, spec)
    moves = oracle(spec, truth, None).moves
    ups = [move for move in moves if move.after > move.before]
    down = next(move for move in moves if move.after < move.before)
    assert all(b.tick - a.tick >= 5 for a, b in zip(ups, ups[1:], strict=False))
    frozen = FreezeWindow.parse("Tue 00:00 - Tue 12:00 UTC")
    assert not any(frozen.holds(truth.moments[move.tick]) for move in ups)
    again = next(move for move in ups if move.tick > down.tick)
    assert again.tick - down.tick >= 30


def test_the_oracle_waits_for_people_like_everybody() -> None:
    spec = a_spec(approval={"before": [0.01]})
    truth = truth_of(a_future(), spec)
    quick, slow = (oracle(spec, truth, delay * HOUR).moves[0].tick for delay in (2, 10))
    assert slow - quick == 8
    assert oracle(spec, truth, None).moves == ()


def test_the_oracle_stays_between_target_and_floor_and_follows_a_guard() -> None:
    short = truth_of(a_future(events=[{"at": "2d", "agreement": 0.965}]), SPEC)
    assert oracle(SPEC, short, None).weight[-1] == 1.0
    guarded = a_spec(guards={"refund": 0.9})
    event = {"at": "2d", "labels": ["refund"], "agreement": 0.9}
    hurt = truth_of(a_future(events=[event]), guarded)
    assert hurt.agreement[-1] > 0.95
    assert oracle(guarded, hurt, None).weight[-1] == 0.0


# --- a threshold on a window ----------------------------------------------------------------------


def test_a_window_climbs_a_stage_at_each_check_that_passes() -> None:
    path = windowed(truth_of(a_future(labels=all_labels(1.0)), SPEC))
    assert [move.tick for move in path.moves] == [0, 1, 2, 3, 4]


def test_a_window_reads_an_outage_as_a_failure() -> None:
    silent = a_future(labels=all_labels(1.0), events=[{"at": "2d", "last": "4h", "outage": True}])
    path = windowed(truth_of(silent, SPEC))
    down = [move.tick for move in path.moves if move.after < move.before]
    assert down == [50]


def test_failed_checks_add_up_whatever_comes_between() -> None:
    """As Flagger counts them: one bad window in ten rolls a healthy release back in the end."""
    path = windowed(truth_of(a_future(), SPEC), threshold=0.99)
    assert any(move.after < move.before for move in path.moves)


# --- many runs ------------------------------------------------------------------------------------


def test_two_processes_play_the_same_runs_as_one() -> None:
    alone = [run.outcome for run in play_many(SPEC, BROKEN, range(20))]
    with processes(2 * FEW) as pool:
        assert (pool is None) == (os.cpu_count() == 1)
        shared = [run.outcome for run in play_many(SPEC, BROKEN, range(20), pool)]
    assert alone == shared


def test_a_sum_of_runs_says_ratios_to_the_oracle_and_unknown_where_there_is_none() -> None:
    truth = truth_of(BROKEN, SPEC)
    best = judged(oracle(SPEC, truth, None))
    runs = [judged(at(1.0)), judged(at(0.0))]
    told = summary_of(runs, best, truth, BROKEN, COST)
    assert told.harm_ratio == pytest.approx(runs[0].harm / 2 / best.harm)
    assert told.saving_ratio == pytest.approx(runs[0].saving / 2 / best.saving)
    assert told.money == pytest.approx(runs[0].saving / 2 * 500 / 3.6e6 * 450)
    assert (told.delay_h, told.undetected, told.top_after_h) == (None, 0.5, None)
    nothing = judged(at(0.0))
    assert summary_of(runs, nothing, truth, BROKEN, COST).harm_ratio is None


def test_a_never_good_policy_is_promoted_less_often_than_alpha() -> None:
    """At an agreement just under the floor, over all stages and looks together."""
    scenario = a_future(duration="3d", labels=all_labels(0.949))
    runs = [run.outcome for run in play_many(SPEC, scenario, range(60))]
    wrong = sum(run.false_promotions > 0 for run in runs)
    assert wrong <= 8  # binomial(60, 0.05) exceeds this with chance 0.002
