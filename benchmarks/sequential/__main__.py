"""`python -m benchmarks.sequential NAME...`: run at full size, keep the result as JSON and table.

Writes benchmarks/results/NAME.json and NAME.md.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from benchmarks.form import Measured

RESULTS = Path(__file__).parents[1] / "results"


def markdown(measured: Measured, title: str, command: str) -> str:
    """A page: verdict, every table of the details, the remaining details, the command."""
    verdict = "holds" if measured.holds else "does **not** hold"
    lines = [f"# {measured.name}", "", title, ""]
    lines += [f"{measured.value:g} ({measured.unit}), bar {measured.bar}: {verdict}."]
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


def main(names: list[str]) -> int:
    failed = 0
    for name in names:
        module = importlib.import_module(f"benchmarks.{name}")
        measured: Measured = module.measure(False)
        title = (module.__doc__ or "").strip()
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(measured.to_json() + "\n")
        page = markdown(measured, title, f"python -m benchmarks.sequential {name}")
        (RESULTS / f"{name}.md").write_text(page)
        print(measured.to_text())
        failed += not measured.holds
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
