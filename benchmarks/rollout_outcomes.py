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
TASK = {"labels": "labels.txt", "template": "prompt.j2"}
SPEC = DomainSpec.from_json({"task": TASK})
REMEDIES = (
    (
        "low_traffic",
        "stages 0, 0.1, 1; stale after 8h",
        DomainSpec.from_json(
            {
                "task": TASK,
                "stages": [0, 0.1, 1],
                "evidence": {"stale_after": "8h", "blind_after": "48h"},
            }
        ),
    ),
    (
        "one_bad_label",
        "guards: complaint 0.9",
        DomainSpec.from_json({"task": TASK, "guards": {"complaint": 0.9}}),
    ),
)
"""What an operator would write instead: scenario, how the spec differs, the spec."""
COST = CostSpec(currency="JPY", accelerator_hour=450)


def measure(quick: bool) -> Measured:
    runs = QUICK_RUNS if quick else RUNS
    window = partial(windowed, Window(TICK, SPEC.agreement.floor, failures=5))
    with processes(runs) as pool:
        rows = {
            name: {
                "ours": played(SPEC, scenario, play, range(runs), pool),
                "window": played(SPEC, scenario, window, range(runs), pool),
            }
            for name, scenario in scenarios().items()
        }
        remedies = {
            f"{name}, {what}": played(spec, scenarios()[name], play, range(runs), pool)
            for name, what, spec in REMEDIES
        }
    ours = {name: row["ours"] for name, row in rows.items()}
    harm = {name: one.harm_ratio for name, one in ours.items() if one.harm_ratio is not None}
    saving = {name: one.saving_ratio for name, one in ours.items() if one.saving_ratio is not None}
    # Where the oracle serves nobody, what counts is how often anybody was served.
    unserved = max(one.false_promotions for name, one in ours.items() if name not in harm)
    misses = sorted(
        {name for name, ratio in harm.items() if ratio > HARM_BAR}
        | {name for name, ratio in saving.items() if ratio < SAVING_BAR}
    )
    same = QUICK_SAME if quick else SAME
    differing = paths_that_differ(same)
    return Measured(
        name="rollout_outcomes",
        value=round(min(saving.values()), 3),
        unit="saving over the oracle's, worst scenario",
        bar=f">= {SAVING_BAR}, with harm <= {HARM_BAR} times the oracle's in every scenario",
        holds=not misses and not differing and unserved <= SPEC.agreement.alpha,
        details={
            "worst_harm_ratio": round(max(harm.values()), 3),
            "scenarios_that_miss": misses,
            "false_start_promoted": unserved,
            "runs": runs,
            "paths_checked_tick_by_tick": len(rows) * same,
            "paths_that_differ": differing,
            "scenarios": [
                shown(name, who, summary)
                for name, row in rows.items()
                for who, summary in row.items()
            ],
            "other specs": [shown(name, "ours", summary) for name, summary in remedies.items()],
        },
    )


def scenarios() -> dict[str, Scenario]:
    """The shipped ones, decided once an hour."""
    return {name: load_shipped(name).model_copy(update={"tick": TICK}) for name in shipped()}


def played(
    spec: DomainSpec, scenario: Scenario, controller: Play, seeds: range, pool: Executor | None
) -> Summary:
    truth = truth_of(scenario, spec)
    best = oracle(spec, truth, scenario.people.answer_after)
    return summary_of(
        [run.outcome for run in play_many(spec, scenario, seeds, pool, controller)],
        outcome_of(spec, truth, scenario.spared, best, best),
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
    for name, scenario in scenarios().items():
        truth, delay = truth_of(scenario, SPEC), scenario.people.answer_after
        for seed in range(seeds):
            some = fast_path(SPEC, truth, delay, seed)
            every = path_of(SPEC, simulate(SPEC, truth, delay, seed))
            same = some.moves == every.moves and np.array_equal(some.weight, every.weight)
            if not (same and np.array_equal(some.shadow, every.shadow)):
                found.append(f"{name} {seed}")
    return found


def shown(scenario: str, controller: str, summary: Summary) -> dict[str, Any]:
    """A table's row, rounded."""
    figures = {
        "harm / oracle's": summary.harm_ratio,
        "saving / oracle's": summary.saving_ratio,
        "wrong answers served": summary.harm,
        "the oracle's": summary.harm_of_best,
        "JPY saved": summary.money,
        "h served while lost": summary.over_h,
        "h below the oracle": summary.under_h,
        "delay, h": summary.delay_h,
        "undetected": summary.undetected,
        "false steps down": summary.false_step_downs,
        "blind steps": summary.blind_steps,
        "runs with a false promotion": summary.false_promotions,
    }
    rounded = {
        name: None if value is None else float(f"{value:.4g}") for name, value in figures.items()
    }
    return {"scenario": scenario, "controller": controller} | rounded
