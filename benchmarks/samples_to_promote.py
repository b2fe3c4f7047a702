"""Promotion needs nearly the fewest samples that theory allows: mean count over the SPRT's.

Floor 0.95, alpha 0.05, looking after every sample. Wald's test knows the true agreement, ours does
not. Every figure is exact, by dynamic programming.
"""

from __future__ import annotations

from benchmarks.form import Measured
from benchmarks.sequential import exact

ALPHA, FLOOR = 0.05, 0.95
BARS = {0.98: 1.25, 0.99: 1.25, 1.0: 1.5}


def measure(quick: bool) -> Measured:
    horizon = 4_000 if quick else 20_000
    ours = exact.promotion_test(FLOOR, ALPHA, horizon)
    shown = exact.beta_mixture(FLOOR, ALPHA, horizon)
    table = []
    for truth, bar in BARS.items():
        fewest = exact.judge(truth, exact.sprt(FLOOR, truth, ALPHA, horizon)).mean_count
        found = exact.judge(truth, ours)
        table.append(
            {
                "agreement": truth,
                "SPRT": round(fewest, 1),
                "ours": round(found.mean_count, 1),
                "ours / SPRT": round(found.mean_count / fewest, 3),
                "bar": bar,
                "promoted": round(found.chance, 4),
                "beta-mixture confidence sequence": round(exact.judge(truth, shown).mean_count, 1),
            }
        )
    ratios = {float(row["agreement"]): float(row["ours / SPRT"]) for row in table}
    return Measured(
        name="samples_to_promote",
        value=max(ratios.values()),
        unit="largest ratio of mean samples to the SPRT's",
        bar=", ".join(f"<= {bar} at {truth}" for truth, bar in BARS.items()),
        holds=all(ratios[truth] <= bar for truth, bar in BARS.items()),
        details={"samples at most": horizon, "samples to promote": table},
    )
