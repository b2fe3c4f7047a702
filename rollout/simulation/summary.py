"""Many runs of one scenario in a few numbers, beside the oracle's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rollout.control.schema import CostSpec
from rollout.reporting.savings import price_per_ms
from rollout.simulation.outcome import Outcome
from rollout.simulation.scenario import Scenario
from rollout.simulation.truth import Truth


@dataclass(frozen=True)
class Summary:
    """Means over runs, unless said otherwise.

    Attributes:
        runs: How many futures.
        reached_top: Share of runs that entered the last stage.
        top_after_h: Median hours until they did; None where fewer than half did.
        promotions: Stages gone up.
        false_promotions: Share of runs with a promotion while agreement was lost.
        step_downs: Narrowings and rollbacks for the answers' sake.
        false_step_downs: Of those, while agreement was on target.
        blind_steps: Narrowings for want of evidence.
        delay_h: Hours from the loss of agreement to the step down; None where none was met.
        delay_95_h: The delay that 95 % of losses stay within.
        undetected: Losses without a step down before they ended.
        harm: Disagreeing answers served early.
        harm_of_best: The oracle's.
        saving: Net share of full-depth computing spared.
        saving_of_best: The oracle's.
        money: Net saving over the scenario, in the spec's currency.
        over_h: Hours with early answers while agreement was lost.
        under_h: Hours on target below the oracle's share.
    """

    runs: int
    reached_top: float
    top_after_h: float | None
    promotions: float
    false_promotions: float
    step_downs: float
    false_step_downs: float
    blind_steps: float
    delay_h: float | None
    delay_95_h: float | None
    undetected: float
    harm: float
    harm_of_best: float
    saving: float
    saving_of_best: float
    money: float
    over_h: float
    under_h: float

    @property
    def harm_ratio(self) -> float | None:
        """Harm over the oracle's; None where the oracle serves nothing wrong."""
        return self.harm / self.harm_of_best if self.harm_of_best else None

    @property
    def saving_ratio(self) -> float | None:
        """Saving over the oracle's; None where there is nothing to save."""
        return self.saving / self.saving_of_best if self.saving_of_best else None

    def to_json(self) -> dict[str, Any]:
        ratios = {"harm_ratio": self.harm_ratio, "saving_ratio": self.saving_ratio}
        return asdict(self) | ratios


def summary_of(
    outcomes: Sequence[Outcome], best: Outcome, truth: Truth, scenario: Scenario, cost: CostSpec
) -> Summary:
    """Raises ValueError without a run."""
    if not outcomes:
        raise ValueError("no run to sum up")

    def mean(name: str) -> float:
        return float(np.mean([getattr(outcome, name) for outcome in outcomes]))

    requests = float(truth.requests.sum())
    tops = [outcome.top_after_h for outcome in outcomes if outcome.top_after_h is not None]
    delays = [delay for outcome in outcomes for delay in outcome.delays_h]
    saving = mean("saving")
    return Summary(
        runs=len(outcomes),
        reached_top=len(tops) / len(outcomes),
        top_after_h=_median_of_all(tops, len(outcomes)),
        promotions=mean("promotions"),
        false_promotions=float(np.mean([one.false_promotions > 0 for one in outcomes])),
        step_downs=mean("step_downs"),
        false_step_downs=mean("false_step_downs"),
        blind_steps=mean("blind_steps"),
        delay_h=float(np.mean(delays)) if delays else None,
        delay_95_h=float(np.quantile(delays, 0.95)) if delays else None,
        undetected=mean("undetected"),
        harm=mean("harm"),
        harm_of_best=best.harm,
        saving=saving / requests,
        saving_of_best=best.saving / requests,
        money=saving * scenario.full_depth_ms * price_per_ms(cost.accelerator_hour),
        over_h=mean("over_h"),
        under_h=mean("under_h"),
    )


def _median_of_all(reached: Sequence[float], runs: int) -> float | None:
    """The median where those that never arrived count as later than all others."""
    place = (runs - 1) // 2
    return sorted(reached)[place] if place < len(reached) else None
