"""`python -m benchmarks` lists the benchmarks, `python -m benchmarks NAME [--quick]` runs one."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Annotated

import typer

import benchmarks
from benchmarks import keeping
from benchmarks.form import Measured
from rollout.values import RolloutError


def names() -> list[str]:
    """The modules that measure something; the others here help them."""
    folder = Path(benchmarks.__path__[0])
    modules = (folder / f"{module.name}.py" for module in pkgutil.iter_modules([str(folder)]))
    # Read, not imported: listing must not load torch a dozen times over.
    return sorted(
        file.stem for file in modules if file.exists() and "\ndef measure(" in file.read_text()
    )


def main(
    name: Annotated[str | None, typer.Argument(help="Which one; none: list them.")] = None,
    quick: Annotated[bool, typer.Option(help="Within a minute on two cores.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    keep: Annotated[bool, typer.Option(help="Write it to benchmarks/results, too.")] = False,
) -> None:
    """Run a benchmark; exit code 1 where its bar does not hold, 2 where it cannot run."""
    if name is None:
        for known in names():
            title = (importlib.import_module(f"benchmarks.{known}").__doc__ or "").splitlines()[0]
            print(f"{known:24} {title}")
        return
    if name not in names():
        print(f"no benchmark {name!r}; there are: {', '.join(names())}", file=sys.stderr)
        raise typer.Exit(2)
    module = importlib.import_module(f"benchmarks.{name}")
    try:
        measured: Measured = module.measure(quick)
    except RolloutError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error
    if keep:
        command = f"python -m benchmarks {name} --keep{' --quick' if quick else ''}"
        keeping.keep(measured, (module.__doc__ or "").strip(), command)
    print(measured.to_json() if json else measured.to_text())
    raise typer.Exit(0 if measured.holds else 1)


if __name__ == "__main__":
    typer.run(main)
