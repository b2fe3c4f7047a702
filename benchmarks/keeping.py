"""Results worth quoting: benchmarks/results/NAME.json and NAME.md, with their command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.form import Measured

RESULTS = Path(__file__).parent / "results"


def keep(measured: Measured, title: str, command: str) -> None:
    """Write a result as JSON and as a page, with its figure where it has one."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{measured.name}.json").write_text(measured.to_json() + "\n")
    (RESULTS / f"{measured.name}.md").write_text(markdown(measured, title, command))
    if measured.figure:
        (RESULTS / f"{measured.name}.svg").write_text(measured.figure)


def markdown(measured: Measured, title: str, command: str) -> str:
    """A page: verdict, every table of the details, the remaining details, the command."""
    verdict = "holds" if measured.holds else "does **not** hold"
    lines = [f"# {measured.name}", "", title, ""]
    lines += [f"{measured.value:g} ({measured.unit}), bar {measured.bar}: {verdict}."]
    if measured.figure:
        lines += ["", f"![{measured.name}]({measured.name}.svg)"]
    rest = {}
    for name, value in measured.details.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines += ["", f"## {name[0].upper()}{name[1:]}", "", *_table(value)]
        else:
            rest[name] = value
    lines += ["", *[f"- {name}: {value}" for name, value in rest.items()]]
    lines += ["", f"`{command}`", ""]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    heads = list(rows[0])
    body = [[_cell(row[head]) for head in heads] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *body]]


def _cell(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
