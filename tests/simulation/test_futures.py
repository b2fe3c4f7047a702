"""Futures are decided by `decide`, meet the truth's rates, and no short cut shows in a path."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rollout.control.decide import decide
from rollout.control.schema import DomainSpec
from rollout.simulation.fast import fast_path
from rollout.simulation.loop import Step
from rollout.simulation.path import path_of
from rollout.simulation.scenario import Scenario
from rollout.simulation.synthetic import shadow_rate, simulate
from rollout.simulation.truth import truth_of
from tests.simulation.examples import a_future, a_spec, all_labels

HOUR = timedelta(hours=1)
BREAK = {"at": "4d", "agreement": 0.9}
FUTURES: dict[str, tuple[Scenario, dict[str, Any]]] = {
    "steady": (a_future(duration="8d"), {}),
    "broken and calibrated": (
        a_future(duration="8d", events=[BREAK | {"last": "1d"}, {"at": "5d", "calibrate": True}]),
        {},
    ),
    "one guarded label": (
        a_future(duration="8d", events=[BREAK | {"labels": ["refund"], "agreement": 0.8}]),
        {"guards": {"refund": 0.9}},
    ),
    "few requests": (a_future(duration="14d", traffic={"per_hour": 10, "daily": 0.8}), {}),
    "outages": (
        a_future(
            duration="9d",
            events=[
                {"at": "3d", "last": "5h", "outage": True},
                {"at": "5d", "last": "20h", "outage": True},
            ],
        ),
        {},
    ),
    "never good enough": (a_future(labels=all_labels(0.94)), {}),
    "short of target": (a_future(duration="9d", events=[BREAK | {"agreement": 0.965}]), {}),
    "people and calendar": (
        a_future(duration="10d"),
        {"approval": {"before": [0.25, 1.0]}, "freeze": ["Tue 00:00 - Wed 12:00 UTC"]},
    ),
}


def steps(scenario: Scenario, spec: DomainSpec, seed: int = 0) -> list[Step]:
    truth = truth_of(scenario, spec)
    return list(simulate(spec, truth, scenario.people.answer_after, seed))


@pytest.mark.parametrize("name", FUTURES)
def test_passing_over_ticks_changes_no_path(name: str) -> None:
    """All benchmarked runs go this way, so the claim is checked run by run."""
    scenario, keys = FUTURES[name]
    spec = a_spec(**keys)
    truth = truth_of(scenario, spec)
    for seed in range(8):
        every = path_of(spec, simulate(spec, truth, scenario.people.answer_after, seed))
        some = fast_path(spec, truth, scenario.people.answer_after, seed)
        assert some.moves == every.moves
        assert np.array_equal(some.weight, every.weight)
        assert np.array_equal(some.shadow, every.shadow)


def test_every_decision_of_a_simulation_is_production_s_own() -> None:
    scenario, _ = FUTURES["broken and calibrated"]
    spec = a_spec()
    for step in steps(scenario, spec):
        assert decide(spec, step.state, step.evidence, step.at) == step.decision


def test_the_same_seed_is_the_same_future_and_another_is_another() -> None:
    scenario, _ = FUTURES["steady"]
    first, again, other = (steps(scenario, a_spec(), seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_two_specs_meet_the_same_requests() -> None:
    scenario, _ = FUTURES["steady"]
    bold, timid = (steps(scenario, a_spec(min_evidence=n)) for n in (50, 5000))
    assert [step.arrivals.requests for step in bold] == [step.arrivals.requests for step in timid]
    assert bold[-1].state.stage > timid[-1].state.stage


def test_comparisons_come_at_the_rates_of_the_truth() -> None:
    scenario = a_future(duration="40d")
    spec = a_spec(min_evidence=100_000)
    seen = [one for step in steps(scenario, spec) for one in step.arrivals.comparisons]
    truth = truth_of(scenario, spec)
    requests = truth.requests.sum()
    assert len(seen) == pytest.approx(requests, rel=0.02)
    for value, name in ((truth.agreement[0], "matched"), (truth.exit_share[0], "exited")):
        share = np.mean([getattr(one, name) for one in seen])
        assert share == pytest.approx(value, abs=4 * (value * (1 - value) / requests) ** 0.5)
    assert all(one.exited for one in seen if not one.matched)


def test_the_early_arm_is_compared_at_the_shadow_rate_in_force() -> None:
    spec = a_spec()
    top = [step for step in steps(a_future(duration="12d"), spec) if step.state.stage == 5]
    expected = sum(
        shadow_rate(spec, before.decision.state_after) * after.arrivals.requests
        for before, after in pairwise(top)
    )
    found = sum(len(after.arrivals.comparisons) for _, after in pairwise(top))
    assert found == pytest.approx(expected, abs=4 * expected**0.5)


def test_nothing_is_compared_in_an_outage_and_answers_go_on() -> None:
    scenario, _ = FUTURES["outages"]
    silent = truth_of(scenario, a_spec()).outage
    for step, quiet in zip(steps(scenario, a_spec()), silent, strict=True):
        assert not (quiet and step.arrivals.comparisons)
    assert sum(step.arrivals.requests for step in steps(scenario, a_spec())) > 20_000


@pytest.mark.parametrize("hours", [2, 9])
def test_a_person_approves_after_the_stated_delay(hours: int) -> None:
    scenario = a_future(people={"answer_after": f"{hours}h"})
    walked = steps(scenario, a_spec(approval={"before": [0.01]}))
    waited = [step.at for step in walked if step.decision.rule == "approval"]
    first = next(step.at for step in walked if step.moved)
    assert first - waited[0] == (hours + 1) * HOUR


def test_where_nobody_answers_an_approval_is_waited_for_to_the_end() -> None:
    scenario = a_future(people={"answer_after": None})
    walked = steps(scenario, a_spec(approval={"before": [0.25]}))
    assert walked[-1].state.stage_weight(a_spec()) == 0.05
    assert walked[-1].decision.rule == "approval"


def test_a_locked_domain_is_unlocked_by_a_person_after_the_delay() -> None:
    spec = a_spec(rollback={"cooldown": "1h", "budget": 1})
    scenario = a_future(
        duration="8d", events=[BREAK | {"last": "1d"}, {"at": "5d", "calibrate": True}]
    )
    walked = steps(scenario, spec)
    assert any(step.decision.rule == "locked" for step in walked) or any(
        step.decision.state_after.mode == "locked" for step in walked
    )
    assert walked[-1].state.mode == "active"
    assert walked[-1].state.stage > 0


def test_a_calibration_starts_a_new_policy_in_shadow() -> None:
    scenario = a_future(events=[{"at": "4d", "calibrate": True}])
    walked = steps(scenario, a_spec())
    before, after = walked[95], walked[96]
    assert before.state.stage == 5
    assert (after.state.policy_version, after.state.stage) == (2, 0)


def test_few_requests_do_not_make_a_healthy_domain_blind() -> None:
    """The shadow rate of calm times alone would leave hours without a comparison."""
    scenario, _ = FUTURES["few requests"]
    for seed in range(5):
        rules = [step.decision.rule for step in steps(scenario, a_spec(), seed)]
        assert "top_stage" in rules
        assert "blind" not in rules


def test_under_a_noise_ceiling_the_full_model_s_pairs_are_drawn_and_a_rollout_climbs() -> None:
    spec = a_spec(agreement={"noise_ceiling": True}, shadow={"replay_share": 0.5})
    walked = steps(a_future(duration="8d"), spec)
    pairs = sum(len(step.arrivals.full_pairs) for step in walked)
    compared = sum(len(step.arrivals.comparisons) for step in walked)
    assert pairs == pytest.approx(compared / 2, rel=0.1)
    assert walked[-1].state.stage > 0
