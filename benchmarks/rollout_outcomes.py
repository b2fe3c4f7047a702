"""Harm done and money saved by whole rollouts, against an oracle and a threshold on a window.

Each scenario of `scenarios/` is simulated thousands of times with the default spec. The oracle
knows the true agreement at every moment, the next tick's included: it waits for no evidence and
pays for no shadow, climbs the same stages as soon as dwell, cool-down, calendar and people let it
while agreement is on target, stays between target and floor, and takes early exit back before the
first request of a tick in which agreement is lost. Its harm is what a healthy policy gets wrong.

The windowed controller works as Flagger and Argo Rollouts do: an analysis every hour, up a stage
where the success rate of that hour is at the floor, rolled back after five failed checks, no value
being a failed check.

Decisions are made once an hour here, not once a minute as in production: that only slows this
project's controller down.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np

from benchmarks.form import Measured
from rollout.control.schema import CostSpec, DomainSpec
from rollout.simulation.baselines import Window, oracle
from rollout.simulation.fast import fast_path
from rollout.simulation.many import Play, play, play_many, processes
from rollout.simulation.outcome import outcome_of
from rollout.simulation.path import Path, path_of
from rollout.simulation.scenario import Scenario, load_shipped, shipped
from rollout.simulation.summary import Summary, summary_of
from rollout.simulation.synthetic import simulate
from rollout.simulation.truth import truth_of

RUNS, QUICK_RUNS = 10_000, 40
SAME, QUICK_SAME = 25, 2
"""Runs per scenario that are also walked through tick by tick."""

HARM_BAR, SAVING_BAR = 1.5, 0.85
TICK = timedelta(hours=1)
SPEC = DomainSpec.from_json({"task": {"labels": "labels.txt", "template": "prompt.j2"}})
COST = CostSpec(currency="JPY", accelerator_hour=450)


def measure(quick: bool) -> Measured:
    runs = QUICK_RUNS if quick else RUNS
    rows, worst_harm, worst_saving, false_start = {}, 0.0, 1.0, 0.0
    window = partial(windowed, Window(TICK, SPEC.agreement.floor, failures=5))
    with processes(runs) as pool:
        for name in shipped():
            scenario = load_shipped(name).model_copy(update={"tick": TICK})
            ours = played(scenario, play, range(runs), pool)
            theirs = played(scenario, window, range(runs), pool)
            if ours.harm_ratio is None or ours.saving_ratio is None:
                # The oracle serves nobody: what counts is how often anybody was served.
                false_start = max(false_start, ours.false_promotions)
            else:
                worst_harm = max(worst_harm, ours.harm_ratio)
                worst_saving = min(worst_saving, ours.saving_ratio)
            rows[name] = {"ours": shown(ours), "window": shown(theirs)}
    differing = paths_that_differ(QUICK_SAME if quick else SAME)
    holds = (
        worst_harm <= HARM_BAR
        and worst_saving >= SAVING_BAR
        and false_start <= SPEC.agreement.alpha
        and not differing
    )
    return Measured(
        name="rollout_outcomes",
        value=round(worst_saving, 3),
        unit="saving over the oracle's, worst scenario",
        bar=f">= {SAVING_BAR}, with harm <= {HARM_BAR} times the oracle's in every scenario",
        holds=holds,
        details={
            "worst_harm_ratio": round(worst_harm, 3),
            "worst_saving_ratio": round(worst_saving, 3),
            "false_start_promoted": false_start,
            "runs": runs,
            "paths_checked_tick_by_tick": len(shipped()) * (QUICK_SAME if quick else SAME),
            "paths_that_differ": differing,
            "scenarios": rows,
        },
    )


def played(scenario: Scenario, controller: Play, seeds: range, pool: Executor | None) -> Summary:
    truth = truth_of(scenario, SPEC)
    best = oracle(SPEC, truth, scenario.people.answer_after)
    return summary_of(
        [run.outcome for run in play_many(SPEC, scenario, seeds, pool, controller)],
        outcome_of(SPEC, truth, scenario.spared, best, best),
        truth,
        scenario,
        COST,
    )


def windowed(window: Window, spec: DomainSpec, scenario: Scenario, seed: int) -> Path:
    """The windowed controller's path through a future of its own."""
    truth = truth_of(scenario, spec)
    return window.path(spec, truth, scenario.people.answer_after, np.random.default_rng(seed))


def paths_that_differ(seeds: int) -> list[str]:
    """Scenario and seed of every run whose fast path is not the one walked tick by tick."""
    found = []
    for name in shipped():
        scenario = load_shipped(name).model_copy(update={"tick": TICK})
        truth, delay = truth_of(scenario, SPEC), scenario.people.answer_after
        for seed in range(seeds):
            some = fast_path(SPEC, truth, delay, seed)
            every = path_of(SPEC, simulate(SPEC, truth, delay, seed))
            same = some.moves == every.moves and np.array_equal(some.weight, every.weight)
            if not (same and np.array_equal(some.shadow, every.shadow)):
                found.append(f"{name} {seed}")
    return found


def shown(summary: Summary) -> dict[str, Any]:
    """The figures of a table's row, rounded."""
    names: Sequence[str] = (
        "harm_ratio",
        "saving_ratio",
        "saving",
        "money",
        "harm",
        "harm_of_best",
        "over_h",
        "under_h",
        "delay_h",
        "undetected",
        "step_downs",
        "false_step_downs",
        "blind_steps",
        "false_promotions",
        "top_after_h",
    )
    values = summary.to_json()
    return {name: None if values[name] is None else float(f"{values[name]:.4g}") for name in names}
