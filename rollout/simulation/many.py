"""Many futures of one scenario, on all cores: the same seed gives the same futures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context

from rollout.control.schema import DomainSpec
from rollout.simulation.baselines import oracle
from rollout.simulation.fast import fast_path
from rollout.simulation.outcome import Outcome, outcome_of
from rollout.simulation.path import Path
from rollout.simulation.scenario import Scenario
from rollout.simulation.truth import truth_of

CHUNK = 16
"""Runs handed to a process at once."""


@dataclass(frozen=True)
class Run:
    """One future: the way taken, and what it came to."""

    path: Path
    outcome: Outcome


Play = Callable[[DomainSpec, Scenario, int], Path]
"""A controller: its path through the future of a seed."""


def play(spec: DomainSpec, scenario: Scenario, seed: int) -> Path:
    """This project's controller."""
    truth = truth_of(scenario, spec)
    return fast_path(spec, truth, scenario.people.answer_after, seed)


def play_many(
    spec: DomainSpec,
    scenario: Scenario,
    seeds: range,
    processes: int,
    controller: Play = play,
) -> Iterator[Run]:
    """One run per seed, in order; with one process in this one."""
    truth = truth_of(scenario, spec)
    best = oracle(spec, truth, scenario.people.answer_after)

    def judged(path: Path) -> Run:
        return Run(path, outcome_of(spec, truth, scenario.spared, path, best))

    if processes == 1:
        for seed in seeds:
            yield judged(controller(spec, scenario, seed))
        return
    # Spawned, not forked: the parent may hold threads that a fork would leave locked.
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        paths = pool.map(controller, repeat(spec), repeat(scenario), seeds, chunksize=CHUNK)
        for path in paths:
            yield judged(path)
