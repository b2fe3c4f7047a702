"""`python -m benchmarks` lists the benchmarks, `python -m benchmarks NAME [--quick]` runs one."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Annotated

import typer

import benchmarks
from benchmarks.form import Measured


def names() -> list[str]:
    found = pkgutil.iter_modules(benchmarks.__path__)
    modules = (module.name for module in found if not module.ispkg)
    return sorted(name for name in modules if name not in ("__main__", "form"))


def main(
    name: Annotated[str | None, typer.Argument(help="Which one; none: list them.")] = None,
    quick: Annotated[bool, typer.Option(help="Within a minute on two cores.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run a benchmark; exit code 1 where its bar does not hold, 2 for an unknown name."""
    if name is None:
        for known in names():
            title = (importlib.import_module(f"benchmarks.{known}").__doc__ or "").splitlines()[0]
            print(f"{known:24} {title}")
        return
    if name not in names():
        print(f"no benchmark {name!r}; there are: {', '.join(names())}", file=sys.stderr)
        raise typer.Exit(2)
    measured: Measured = importlib.import_module(f"benchmarks.{name}").measure(quick)
    print(measured.to_json() if json else measured.to_text())
    raise typer.Exit(0 if measured.holds else 1)


if __name__ == "__main__":
    typer.run(main)
