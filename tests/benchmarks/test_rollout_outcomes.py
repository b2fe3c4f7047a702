"""What the benchmark of whole rollouts counts on: its short cut, its other specs, its rows."""

from __future__ import annotations

from functools import partial

from benchmarks import rollout_outcomes as bar
from rollout.simulation.baselines import Window
from rollout.simulation.many import play
from rollout.simulation.scenario import shipped


def test_every_shipped_scenario_goes_the_same_way_tick_by_tick() -> None:
    assert list(bar.scenarios()) == shipped()
    assert bar.paths_that_differ(1) == []


def test_a_row_has_the_same_columns_for_both_controllers_and_unknown_where_nothing_is_served() -> (
    None
):
    scenario = bar.scenarios()["false_start"]
    window = partial(bar.windowed, Window(bar.TICK, 0.95, failures=5))
    ours, theirs = (
        bar.shown("false_start", name, bar.played(bar.SPEC, scenario, controller, range(3), None))
        for name, controller in (("ours", play), ("window", window))
    )
    assert list(ours) == list(theirs)
    assert ours["harm / oracle's"] is None and ours["wrong answers served"] == 0
    assert theirs["runs with a false promotion"] == 1.0


def test_each_other_spec_is_for_a_shipped_scenario() -> None:
    assert {name for name, _, _ in bar.REMEDIES} <= set(shipped())
