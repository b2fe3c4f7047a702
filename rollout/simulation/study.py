"""One scenario tried on one domain: the futures, what they came to, and the oracle beside them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

from rollout.control.schema import CostSpec, DomainSpec
from rollout.simulation.baselines import oracle
from rollout.simulation.many import Run, play_many
from rollout.simulation.outcome import outcome_of
from rollout.simulation.path import Path
from rollout.simulation.scenario import Scenario
from rollout.simulation.summary import Summary, summary_of
from rollout.simulation.truth import Truth, truth_of


@dataclass(frozen=True)
class Study:
    """Attributes:
    name: Of the scenario.
    best: The oracle's path.
    runs: At least one.
    """

    name: str
    domain: str
    spec: DomainSpec
    scenario: Scenario
    truth: Truth
    best: Path
    runs: tuple[Run, ...]
    summary: Summary


def study(
    name: str,
    domain: str,
    spec: DomainSpec,
    cost: CostSpec,
    scenario: Scenario,
    seeds: range,
    pool: Executor | None,
) -> Iterator[Study | None]:
    """None after each run, for a progress bar; the study at the end.

    Raises:
        SpecError: the scenario does not fit the spec.
    """
    truth = truth_of(scenario, spec)
    best = oracle(spec, truth, scenario.people.answer_after)
    runs = []
    for run in play_many(spec, scenario, seeds, pool):
        runs.append(run)
        yield None
    yield Study(
        name=name,
        domain=domain,
        spec=spec,
        scenario=scenario,
        truth=truth,
        best=best,
        runs=tuple(runs),
        summary=summary_of(
            [run.outcome for run in runs],
            outcome_of(spec, truth, scenario.spared, best, best),
            truth,
            scenario,
            cost,
        ),
    )
