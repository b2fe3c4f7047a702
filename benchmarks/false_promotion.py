"""Promotion, looked at after every sample, is wrong as seldom as stated, and no more careful.

A policy whose agreement lies 0.0001 under the floor, up to 20,000 samples, alpha 0.05. Every figure
is exact: evidence depends on two counts, so the chance follows by dynamic programming.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.form import Measured
from benchmarks.sequential import exact

ALPHA = 0.05
LEAST = 0.03
FLOORS = (0.95, 0.97)
BELOW = 1e-4

RULES: dict[str, Callable[[float, float, int], exact.Boundary]] = {
    "likelihood-ratio mixture (ours)": exact.promotion_test,
    "beta-mixture confidence sequence": exact.beta_mixture,
    "Clopper-Pearson, peeking": exact.clopper_pearson,
    "Wilson, peeking": exact.wilson,
}


def measure(quick: bool) -> Measured:
    horizon = 5_000 if quick else 20_000
    table = [
        {"rule": name}
        | {
            f"floor {floor}": round(exact.judge(floor - BELOW, rule(floor, ALPHA, horizon))[0], 4)
            for floor in FLOORS
        }
        for name, rule in RULES.items()
    ]
    ours = [float(table[0][f"floor {floor}"]) for floor in FLOORS]
    return Measured(
        name="false_promotion",
        value=max(ours),
        unit="largest chance of a false promotion",
        bar=f">= {LEAST} and <= {ALPHA} at both floors",
        holds=all(LEAST <= chance <= ALPHA for chance in ours),
        details={"samples": horizon, "false promotions": table},
    )
