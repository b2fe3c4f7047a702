"""A scenario says what the truth is; what cannot be is an error with file, line and key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rollout.control.spec import SpecError
from rollout.simulation.scenario import load_scenario, load_shipped, shipped
from rollout.simulation.truth import truth_of
from tests.simulation.examples import a_future, a_spec, all_labels

GOOD = """\
duration: 2d
traffic: {per_hour: 60}
labels:
  invoice: {share: 1, agreement: 0.99, exit_share: 0.6}
"""


def refused(folder: Path, text: str) -> str:
    file = folder / "future.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as error:
        load_scenario(file)
    return str(error.value).removeprefix(f"{file}:")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (GOOD.replace("duration", "durration"), "1: durration: unknown key; did you mean duration"),
        (GOOD.replace("60}", "0}"), "2: traffic.per_hour: input should be greater than 0"),
        (GOOD.replace("0.99", "1.1"), "4: labels.invoice.agreement: input should be less than or"),
        (
            GOOD.replace("0.99, exit_share: 0.6", "0.9, exit_share: 0.05"),
            "4: labels.invoice.agreement: 0.9 is impossible: only early exits can disagree",
        ),
        (GOOD + "events:\n  - {at: 3d, agreement: 0.9}\n", "6: events[0].at: lies after the end"),
        (GOOD + "events:\n  - {at: 1d}\n", "6: events[0].at: the event changes nothing"),
        (
            GOOD + "events:\n  - {at: 1d, labels: [invoce], agreement: 0.9}\n",
            "6: events[0].labels[0]: invoce is none of this scenario's labels: invoice",
        ),
        (
            GOOD + "events:\n  - {at: 1h, every: 1d, agreement: 0.9}\n",
            "6: events[0].every: needs a shorter `last`",
        ),
        (GOOD + "tick: 2d\n", "1: duration: is shorter than two ticks"),
        (GOOD + "start: 2026-01-05T00:00:00\n", "5: start: needs a time zone"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused_by_line_and_key(
    tmp_path: Path, wrong: str, said: str
) -> None:
    assert said in refused(tmp_path, wrong)


def test_a_file_that_is_not_there_leads_to_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such file; .*sudden_break"):
        load_scenario(tmp_path / "nothing.yaml")


def test_the_shipped_scenarios_are_those_of_the_folder_named_scenarios() -> None:
    root = Path(__file__).resolve().parents[2]
    assert shipped() == sorted(path.stem for path in (root / "scenarios").glob("*.yaml"))
    assert set(shipped()) == {
        "steady",
        "slow_decay",
        "sudden_break",
        "weekly_season",
        "one_bad_label",
        "low_traffic",
        "label_flip",
        "outage",
        "false_start",
    }


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_scenario_says_what_it_shows_and_fits_the_default_spec(name: str) -> None:
    scenario = load_shipped(name)
    truth = truth_of(scenario, a_spec())
    assert scenario.shows
    assert len(truth.moments) == scenario.duration / scenario.tick
    assert np.all((truth.exits >= truth.error - 1e-9) & (truth.error >= 0))


def test_an_event_is_there_from_its_time_to_its_end_and_comes_again() -> None:
    break_ = {"at": "1d", "last": "6h", "every": "2d", "agreement": 0.9}
    truth = truth_of(a_future(events=[break_]), a_spec())
    hurt = truth.agreement < 0.95
    expected = [any(day * 24 <= hour < day * 24 + 6 for day in (1, 3)) for hour in range(120)]
    assert hurt.tolist() == expected


def test_a_slow_event_goes_in_a_straight_line_from_what_is_there() -> None:
    scenario = a_future(
        labels=all_labels(1.0), events=[{"at": "1d", "over": "2d", "agreement": 0.9}]
    )
    truth = truth_of(scenario, a_spec())
    assert truth.agreement[23] == 1.0
    assert truth.agreement[48] == pytest.approx(1.0 - 0.1 * 24.5 / 48)
    assert truth.agreement[-1] == pytest.approx(0.9)


def test_a_season_moves_traffic_and_leaves_the_week_s_mean() -> None:
    season = {"per_hour": 60, "daily": 0.5, "weekend": 0.5}
    truth = truth_of(a_future(duration="7d", traffic=season), a_spec())
    by_day = truth.requests.reshape(7, 24)
    assert by_day[0].argmax() in (14, 15) and by_day[0].argmin() in (2, 3)
    assert by_day.sum(axis=1) == pytest.approx([1440] * 5 + [720] * 2)


def test_a_guard_that_the_scenario_does_not_name_watches_its_rarest_label() -> None:
    truth = truth_of(a_future(), a_spec(guards={"fraud": 0.9}))
    assert truth.labels == ("invoice", "fraud")
    assert truth.exit_error("fraud")[0] == pytest.approx(0.012 / 0.5)


def test_a_label_that_is_never_early_neither_exits_nor_disagrees() -> None:
    truth = truth_of(a_future(), a_spec(guards={"refund": "never_early"}))
    assert truth.exit_share[0] == pytest.approx(0.7 * 0.7)
    assert truth.agreement[0] == pytest.approx(1 - 0.7 * 0.008)


def test_more_guards_than_labels_are_refused() -> None:
    with pytest.raises(SpecError, match="guards 3 labels .* the scenario has 2"):
        truth_of(a_future(), a_spec(guards={"a": 0.9, "b": 0.9, "c": 0.9}))


def test_an_event_whose_errors_no_exit_could_make_is_refused() -> None:
    scenario = a_future(events=[{"at": "1d", "agreement": 0.4}])
    with pytest.raises(SpecError, match=r"label refund has agreement 0\.4 .* only 0\.5"):
        truth_of(scenario, a_spec())
