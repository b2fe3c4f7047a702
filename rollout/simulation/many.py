"""Many futures of one scenario, on all cores: the same seed gives the same futures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from rollout.control.schema import DomainSpec
from rollout.simulation.baselines import oracle
from rollout.simulation.fast import fast_path
from rollout.simulation.outcome import Outcome, outcome_of
from rollout.simulation.path import Path
from rollout.simulation.scenario import Scenario
from rollout.simulation.truth import truth_of

CHUNK = 8
"""Runs handed to a process at once."""
FEW = 100
"""Runs that one process is as soon through with as a pool has started."""


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
    pool: Executor | None = None,
    controller: Play = play,
) -> Iterator[Run]:
    """One run per seed, in order; without a pool in this process."""
    truth = truth_of(scenario, spec)
    best = oracle(spec, truth, scenario.people.answer_after)
    played = partial(controller, spec, scenario)
    paths = map(played, seeds) if pool is None else pool.map(played, seeds, chunksize=CHUNK)
    for path in paths:
        yield Run(path, outcome_of(spec, truth, scenario.spared, path, best))


def processes(runs: int) -> AbstractContextManager[Executor | None]:
    """A pool of all cores; none where its start would take longer than the runs."""
    cores = min(os.cpu_count() or 1, runs // FEW)
    if cores < 2:
        return nullcontext()
    # Spawned, not forked: the parent may hold threads that a fork would leave locked.
    return ProcessPoolExecutor(cores, get_context("spawn"))
