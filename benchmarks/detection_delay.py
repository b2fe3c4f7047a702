"""A drop of agreement is found nearly as soon as if the change were known, at stated false alarms.

Detectors are compared at one mean time to false alarm, 20,000 samples: CUSUM with the change known,
ours, an exponentially weighted mean, a window of 200, and river's, each with its threshold tuned to
it at the rate before the change. Ours as shipped is not tuned: its threshold is the promise, which
it over-fulfils. Delays are means over runs without an alarm before the change, at sample 2,000 or
at the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.form import Measured
from benchmarks.sequential.detectors import (
    Cusum,
    Detector,
    Ewma,
    Floats,
    Mixture,
    Window,
    first_alarm,
    first_alarms,
    mean_time,
    river_detectors,
)

PROMISE = 20_000
CHANGES = ((0.01, 0.05), (0.01, 0.10), (0.02, 0.07))
QUIET = 2_000
LATE_BAR, EARLY_BAR = 1.25, 1.45
AFTER = 3_000
OURS, SHIPPED, KNOWN = "ours, tuned", "ours, as shipped", "CUSUM, change known"
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
FROM_START = "from the start"
AHEAD_OF = ("river", "window")


def measure(quick: bool) -> Measured:
    rng = np.random.default_rng(20_240_602)
    runs = 300 if quick else 2_000
    delays = [row for before in (0.01, 0.02) for row in _compared(rng, before, runs, quick)]
    delays.sort(key=lambda row: str(row["change"]))
    held = _false_alarms(rng, runs // 10)
    ratios = _ratios(delays)
    behind = [
        f"{row['detector']}, {row['change']}"
        for row in delays
        if row["detector"].startswith(AHEAD_OF)
        and _keeps_rate(row)
        and row["mean delay"] <= _delay(delays, OURS, row["change"])
    ]
    reached = [row["mean time to false alarm"] for row in held if row["promised"]]
    kept = all(mean is None or mean >= PROMISE for mean in reached)
    near = all(
        row["mean delay / CUSUM"] <= LATE_BAR and row["from the start / CUSUM"] <= EARLY_BAR
        for row in ratios
    )
    return Measured(
        name="detection_delay",
        value=max(row["mean delay / CUSUM"] for row in ratios),
        unit="largest ratio of mean delay to the CUSUM that knows the change",
        bar=f"<= {LATE_BAR} (<= {EARLY_BAR} from the start), ahead of river's and the window, mean "
        f"time to false alarm >= {PROMISE} up to the tolerated error",
        holds=near and kept and not behind,
        details={
            "ours against the CUSUM": ratios,
            "delays": delays,
            "mean time to false alarm as shipped": held,
            "1 % -> 5 % by declared error": _misdeclared(rng, runs // 10),
            "runs": runs,
            "cannot keep the false-alarm rate": sorted(
                {row["detector"] for row in delays if not _keeps_rate(row)}
            ),
            "found sooner than by ours": behind,
        },
    )


def _compared(
    rng: np.random.Generator, before: float, runs: int, quick: bool
) -> list[dict[str, Any]]:
    """One row per change from this rate and detector."""
    changes = [after for start, after in CHANGES if start == before]

    def fresh() -> dict[str, tuple[Detector, Sequence[float]]]:
        return {
            **{
                f"{KNOWN}{after}": (Cusum(before, after, runs), _grid(3.0, 7.0, 201))
                for after in changes
            },
            OURS: (Mixture([before] * runs), _grid(math.log(PROMISE) - 0.8, math.log(PROMISE), 41)),
            "window of 200": (Window(200, runs), _grid(3.0, 25.0, 23)),
            "weighted mean, 0.01": (
                Ewma(before, 0.01, runs),
                _grid(before + 0.005, before + 0.065, 241),
            ),
        }

    # The threshold of each: the lowest that keeps the promise.
    horizon, made = 40_000, fresh()
    tuned: dict[str, tuple[float, float]] = {}
    nulls = first_alarms(rng, list(made.values()), [(before, horizon)], runs)
    for (name, (_, thresholds)), null in zip(made.items(), nulls, strict=True):
        reached = mean_time(null, horizon)
        index = int(np.argmax(reached >= PROMISE))
        tuned[name] = float(thresholds[index]), float(reached[index])
        if name == OURS:
            tuned[SHIPPED] = float(thresholds[-1]), float(reached[-1])

    found: list[dict[str, Any]] = []
    for after in changes:
        delays: dict[str, list[NDArray[np.int64]]] = {}
        for quiet in (QUIET, 0):
            made = fresh() | {SHIPPED: (Mixture([before] * runs), ())}
            made = {name: each for name, each in made.items() if _fits(name, after)}
            alarms = first_alarms(
                rng,
                [(detector, [tuned[name][0]]) for name, (detector, _) in made.items()],
                [(before, quiet), (after, AFTER)],
                runs,
            )
            for name, times in zip(made, alarms, strict=True):
                delays.setdefault(name, []).append(_late(times[0], quiet))
        for name, (late, early) in delays.items():
            plain = KNOWN if name.startswith(KNOWN) else name
            found.append(_row(plain, before, after, tuned[name][1], late, early))
    return found + _of_river(rng, before, changes, quick)


def _fits(name: str, after: float) -> bool:
    return not name.startswith(KNOWN) or name == f"{KNOWN}{after}"


def _grid(low: float, high: float, size: int) -> Sequence[float]:
    return [float(value) for value in np.linspace(low, high, size)]


def _of_river(
    rng: np.random.Generator, before: float, changes: list[float], quick: bool
) -> list[dict[str, Any]]:
    rows = []
    for name, (make, parameters, cost) in river_detectors().items():
        horizon = 20_000 if quick else 30_000
        nulls = max((30 if quick else 60) // cost, 10)
        null = [
            first_alarm(make(parameters[before]), (rng.random(horizon) < before).tolist())
            for _ in range(nulls)
        ]
        reached = float(mean_time(np.array(null), horizon))
        for after in changes:
            times = []
            for _ in range((100 if quick else 800) // cost):
                rates = np.repeat([before, after], [QUIET, AFTER])
                seen = (rng.random(len(rates)) < rates).tolist()
                times.append(first_alarm(make(parameters[before]), seen))
            late = _late(np.array(times), QUIET)
            rows.append(_row(name, before, after, reached, late, None))
    return rows


def _late(alarms: NDArray[np.int64], quiet: int) -> NDArray[np.int64]:
    """Delays of the runs that did not alarm before the change; cut off at the end."""
    return np.minimum(alarms[alarms > quiet] - quiet, AFTER)


def _row(
    name: str,
    before: float,
    after: float,
    reached: float,
    late: NDArray[np.int64],
    early: NDArray[np.int64] | None,
) -> dict[str, Any]:
    return {
        "change": f"{before:.0%} -> {after:.0%}",
        "detector": name,
        "mean time to false alarm": _rounded(reached),
        "mean delay": round(float(late.mean()), 1),
        "standard error": round(float(late.std() / len(late) ** 0.5), 1),
        "median": int(np.median(late)),
        "95 %": int(np.quantile(late, 0.95)),
        "from the start": None if early is None else round(float(early.mean()), 1),
    }


def _keeps_rate(row: dict[str, Any]) -> bool:
    """Whether its false alarms are as rare as promised, give or take the noise of few runs."""
    reached = row["mean time to false alarm"]
    return reached is None or reached >= PROMISE / 2


def _delay(rows: list[dict[str, Any]], name: str, change: str, kind: str = "mean delay") -> float:
    return next(
        float(row[kind]) for row in rows if row["detector"] == name and row["change"] == change
    )


def _ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ratios = []
    for change in dict.fromkeys(row["change"] for row in rows):
        known = {kind: _delay(rows, KNOWN, change, kind) for kind in ("mean delay", FROM_START)}
        for name in (SHIPPED, OURS):
            ratios.append(
                {"change": change, "detector": name}
                | {
                    f"{kind} / CUSUM": round(_delay(rows, name, change, kind) / known[kind], 3)
                    for kind in known
                }
            )
    return ratios


def _false_alarms(rng: np.random.Generator, runs: int) -> list[dict[str, Any]]:
    """The mean time to false alarm as shipped, where the truth is and is not what was declared."""
    horizon, cells = (
        40_000,
        [(tolerated, factor) for tolerated in (0.01, 0.02) for factor in FACTORS],
    )
    alarms = _as_shipped(
        rng,
        [tolerated for tolerated, _ in cells],
        [(np.repeat([tolerated * factor for tolerated, factor in cells], runs), horizon)],
        runs,
    )
    return [
        {
            "declared": f"{tolerated:.1%}",
            "true": f"{tolerated * factor:.2%}",
            "promised": factor <= 1.0,
            "mean time to false alarm": _rounded(float(mean_time(times, horizon))),
        }
        for (tolerated, factor), times in zip(cells, alarms, strict=True)
    ]


def _misdeclared(rng: np.random.Generator, runs: int) -> list[dict[str, Any]]:
    """The delay of 1 % -> 5 % by what was declared: slack costs delay, want of it the promise."""
    declared, longest = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05), 30_000
    alarms = _as_shipped(rng, declared, [(0.01, QUIET), (0.05, longest)], runs)
    return [
        {
            "declared": f"{tolerated:.1%}",
            "mean delay": round(float(np.minimum(times[times > QUIET] - QUIET, longest).mean())),
            "alarms before the change": round(float((times <= QUIET).mean()), 3),
        }
        for tolerated, times in zip(declared, alarms, strict=True)
    ]


def _as_shipped(
    rng: np.random.Generator,
    declared: Sequence[float],
    rates: Sequence[tuple[float | Floats, int]],
    runs: int,
) -> NDArray[np.int64]:
    """First alarms, [declared errors, runs]."""
    detector = Mixture(np.repeat(declared, runs).tolist())
    (alarms,) = first_alarms(rng, [(detector, [math.log(PROMISE)])], rates, len(declared) * runs)
    return alarms.reshape(len(declared), runs)


def _rounded(mean: float) -> int | None:
    """None where no run alarmed."""
    return int(round(mean, -2)) if np.isfinite(mean) else None
