"""`python -m benchmarks.sequential NAME...`: run at full size and keep the results."""

from __future__ import annotations

import importlib
import sys

from benchmarks.form import Measured
from benchmarks.keeping import keep


def main(names: list[str]) -> int:
    failed = 0
    for name in names:
        module = importlib.import_module(f"benchmarks.{name}")
        measured: Measured = module.measure(False)
        keep(measured, (module.__doc__ or "").strip(), f"python -m benchmarks.sequential {name}")
        print(measured.to_text())
        failed += not measured.holds
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
