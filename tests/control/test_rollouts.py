"""Whole rollouts, simulated with known truth, under the very `decide` of production."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from rollout.control.decide import decide
from rollout.control.decision import Decision
from rollout.control.schema import DomainSpec
from rollout.control.state import Comparison, DomainState
from tests.control.examples import MINUTE, MONDAY, QUIET, billing

SPEC = billing(dwell="10m")


def simulate(
    spec: DomainSpec,
    agreement: list[float],
    seed: int,
    comparisons_per_tick: int = 30,
) -> list[Decision]:
    """One decision per ten minutes; `agreement` is the truth at each."""
    rng = np.random.default_rng(seed)
    state, decisions = DomainState.start(spec, MONDAY, policy_version=1), []
    for tick, truth in enumerate(agreement):
        now = MONDAY + tick * 10 * MINUTE
        seen = [
            Comparison(now, bool(matched), True, "invoice")
            for matched in rng.random(comparisons_per_tick) < truth
        ]
        state = replace(state, monitor=state.monitor.update(seen, requests=len(seen)))
        decisions.append(decide(spec, state, QUIET, now))
        state = decisions[-1].state_after
    return decisions


def test_a_good_policy_climbs_every_stage_and_a_break_rolls_it_back_and_not_before() -> None:
    for seed in range(20):
        decisions = simulate(SPEC, [0.992] * 150 + [0.85] * 20, seed)
        moves = [(tick, one.action) for tick, one in enumerate(decisions) if one.action != "hold"]
        assert [action for _, action in moves] == ["promote"] * 5 + ["roll_back"]
        assert 150 <= moves[-1][0] <= 154


def test_a_policy_on_the_floor_reaches_the_top_in_fewer_than_alpha_of_all_rollouts() -> None:
    tops = 0
    promoted_first = 0
    for seed in range(150):
        decisions = simulate(SPEC, [0.9499] * 60, seed)
        stages = [one.state_after.stage for one in decisions]
        promoted_first += max(stages) >= 1
        tops += max(stages) == 5
    assert tops == 0
    assert promoted_first / 150 <= 0.03


def test_a_policy_between_floor_and_target_does_not_stay_at_the_top() -> None:
    last_stages = Counter(
        simulate(SPEC, [0.965] * 250, seed)[-1].state_after.stage for seed in range(20)
    )
    assert last_stages[0] >= 18


def test_a_broken_policy_after_a_rollback_fails_in_shadow_and_stays_there() -> None:
    decisions = simulate(SPEC, [0.995] * 40 + [0.85] * 300, seed=3)
    after = [one.rule for one in decisions if one.state_after.stage == 0][-100:]
    assert set(after) == {"fails_in_shadow"}
    assert sum(one.incident == "fails_in_shadow" for one in decisions) == 1
