"""Benchmarks have one form. What they measure is never a test: machines are noisy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import keeping
from benchmarks.__main__ import main, names
from benchmarks.form import Measured


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_without_a_name_every_benchmark_is_listed_with_what_it_claims() -> None:
    code, output = run()
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()] == names()


def test_an_unknown_name_is_told_which_there_are() -> None:
    code, output = run("nonsense")
    assert code == 2
    assert "realised_speedup" in output


def test_a_result_says_whether_its_bar_holds() -> None:
    measured = Measured("speed", 0.9, "ratio", ">= 0.85", True, {"rows": 16})
    assert json.loads(measured.to_json())["holds"] is True
    assert measured.to_text().splitlines()[0] == "speed: 0.900 (ratio), bar >= 0.85: holds"


def test_a_figure_is_kept_beside_its_result_and_is_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "RESULTS", tmp_path)
    plain = Measured("speed", 0.9, "ratio", ">= 0.85", True)
    keeping.keep(plain, "Speed.", "python -m benchmarks speed")
    assert not (tmp_path / "speed.svg").exists()
    keeping.keep(replace(plain, figure="<svg/>"), "Speed.", "python -m benchmarks speed")
    assert (tmp_path / "speed.svg").read_text() == "<svg/>"
    assert "![speed](speed.svg)" in (tmp_path / "speed.md").read_text()
    assert "figure" not in json.loads((tmp_path / "speed.json").read_text())
