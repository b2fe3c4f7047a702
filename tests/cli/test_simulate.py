"""simulate: a table for people, JSON for scripts, one page that needs nothing else."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from rollout.store.session import Store
from tests.cli.conftest import Run
from tests.cli.test_judge import MINUTE, another_spec, lived
from tests.cli.test_judge import live as live
from tests.cli.test_judge import start as start

FUTURE = """\
shows: "Nothing `much` happens."
duration: 2d
tick: 1h
traffic: {per_hour: 150}
labels:
  invoice: {share: 1, agreement: 0.995, exit_share: 0.6}
"""


@pytest.fixture
def futures(home: Path) -> list[str]:
    """A healthy future and one that breaks, as files."""
    (home / "healthy.yaml").write_text(FUTURE)
    (home / "broken.yaml").write_text(FUTURE + "events:\n  - {at: 30h, agreement: 0.85}\n")
    return [str(home / "healthy.yaml"), str(home / "broken.yaml")]


def test_scenarios_that_the_shell_spread_out_are_all_simulated(
    run: Run, home: Path, futures: list[str]
) -> None:
    """As in `--scenario scenarios/*.yaml`."""
    found = run(
        "simulate", "--spec", str(home / "rollout.yaml"), "--scenario", *futures, "--runs", "3"
    )
    assert found.code == 0
    head, healthy, broken, last = found.out.splitlines()
    assert head.startswith("scenario\tdomain\tall traffic after")
    assert healthy.startswith("healthy\tsupport\t") and broken.startswith("broken\tsupport\t")
    assert last == f"3 runs each; the picture: {home / 'var' / 'simulation.html'}"


def test_json_has_the_same_figures_for_the_same_seed(
    run: Run, futures: list[str], tmp_path: Path
) -> None:
    arguments = ("simulate", *futures, "--runs", "3", "--json", "--out", str(tmp_path / "new"))
    first, again = run(*arguments), run(*arguments)
    assert first.json == again.json
    healthy, broken = first.json["studies"]
    assert (healthy["scenario"], healthy["runs"], healthy["step_downs"]) == ("healthy", 3, 0)
    assert healthy["saving_ratio"] > 0.5 and healthy["delay_h"] is None
    assert broken["delay_h"] > 0 and broken["harm"] > broken["harm_of_best"]
    assert run(*arguments, "--seed", "9").json["studies"][1] != broken
    assert Path(first.json["page"]).parent == tmp_path / "new"


def test_the_page_is_whole_in_itself_and_says_what_a_scenario_shows(
    run: Run, home: Path, futures: list[str]
) -> None:
    run("simulate", *futures, "--runs", "2")
    page = (home / "var" / "simulation.html").read_text("utf-8")
    assert "Nothing <code>much</code> happens." in page
    assert page.count('<svg class="chart wide"') == page.count('<svg class="chart narrow"') == 4
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
    assert "One run: " in page


def test_a_shipped_scenario_goes_by_its_name(run: Run, home: Path) -> None:
    found = run("simulate", "--scenario", "false_start", "--runs", "2", "--json")
    (study,) = found.json["studies"]
    assert (study["scenario"], study["harm"], study["harm_ratio"]) == ("false_start", 0, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--scenario", "nothing.yaml"), "nothing.yaml: there is no such file; name a file, or"),
        (("--domain", "sales"), "the spec has no domain 'sales'; it has support"),
        (("--replay", "steady"), "--replay runs over the stored past: leave the scenarios out"),
        (("--replay",), "domain 'support' is unknown"),
    ],
)
def test_what_cannot_be_simulated_is_said_with_the_way_out(
    run: Run, home: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert run("simulate", *arguments).error.startswith(said)


def test_a_page_that_cannot_be_written_is_said(run: Run, home: Path, futures: list[str]) -> None:
    (home / "file").write_text("")
    error = run("simulate", futures[0], "--runs", "1", "--out", str(home / "file")).error
    assert "cannot be written" in error and error.endswith("choose --out")


def test_the_stored_past_is_decided_again_and_drawn(
    run: Run, live: datetime, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(store, live, ticks=40)
    monkeypatch.setattr("rollout.cli.simulate.now", lambda: live + 400 * MINUTE)
    new = str(another_spec(home, min_evidence="500"))
    arguments = ("simulate", "--replay", "--spec", new)
    (past,) = run(*arguments, "--json").json["pasts"]
    stored, replayed = past["stored"], past["replayed"]
    assert stored["counts"]["promote"] > replayed["counts"]["promote"] > 0
    assert stored["mean_share"] > replayed["mean_share"] > 0
    page = (home / "var" / "simulation.html").read_text("utf-8")
    assert page.count('<svg class="chart wide"') == 2
    _, was, would, last = run(*arguments).out.splitlines()
    assert was.split("\t")[:2] == ["support", "as it was"]
    assert would.split("\t")[1:4] == [
        "under the spec",
        f"{100 * replayed['mean_share']:.3g} %",
        str(replayed["counts"]["promote"]),
    ]
    assert "simulation.html" in last


def test_the_same_spec_over_the_past_has_the_same_mean_share(
    run: Run, live: datetime, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(store, live, ticks=30)
    monkeypatch.setattr("rollout.cli.simulate.now", lambda: live + 300 * MINUTE)
    (past,) = run("simulate", "--replay", "--json").json["pasts"]
    assert past["stored"]["counts"] == past["replayed"]["counts"]
    assert past["stored"]["mean_share"] == pytest.approx(past["replayed"]["mean_share"], rel=0.05)
