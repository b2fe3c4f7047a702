"""The tree is what the design says it is, and its references are what the code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from importlinter import cli

from rollout.cli.reference import (
    COMMAND,
    cli_reference,
    configuration_reference,
    scenario_reference,
)

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rollout", "workers", "dashboards", "benchmarks")
LONGEST_MODULE = 300


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_each_package_imports_only_what_its_contracts_allow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    code = cli.lint_imports(no_cache=True, no_logo=True)
    assert code == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_every_module_can_be_read_in_one_sitting() -> None:
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in modules()}
    long = {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > LONGEST_MODULE}
    assert not long, f"split these modules of more than {LONGEST_MODULE} lines: {long}"


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in modules()
        if path.stat().st_size and ast.get_docstring(ast.parse(path.read_text("utf-8"))) is None
    ]
    assert not silent, f"these modules have no docstring: {silent}"


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("cli.md", cli_reference),
        ("configuration.md", configuration_reference),
        ("scenarios.md", scenario_reference),
    ],
)
def test_a_reference_says_what_the_code_says(name: str, made: Callable[[], str]) -> None:
    stands = (ROOT / "docs" / name).read_text("utf-8")
    assert stands == made(), f"docs/{name} is out of date: run `{COMMAND}`"


def test_every_test_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "README.md").read_text("utf-8")))
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert {name for name in named if f"def {name}(" not in sources} == set()
