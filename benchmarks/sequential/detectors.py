"""Change detectors over many runs at once, and river's one run at a time.

A detector here is its statistic; the threshold comes afterwards, so that one simulation gives the
mean time to false alarm of a whole grid of thresholds.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rollout.stats.change import rates_after_change
from rollout.values import RolloutError

Errors = NDArray[np.bool_]
Floats = NDArray[np.float64]

NEVER = np.iinfo(np.int64).max


class Detector(Protocol):
    """Sees one observation of every run at a time."""

    def step(self, errors: Errors) -> Floats:
        """The statistic after these errors, [runs] both."""


class Mixture:
    """`rollout.stats.change.ChangeDetector`, for many runs; the logarithm of its statistic.

    Args:
        tolerated: Declared error, per run.
    """

    def __init__(self, tolerated: Sequence[float]) -> None:
        declared = np.array(tolerated)  # [runs]
        rates = np.array([rates_after_change(error) for error in tolerated]).T  # [6, runs]
        self.on_error = rates / declared
        self.else_ = (1.0 - rates) / (1.0 - declared)
        self.levels = np.zeros(rates.shape)

    def step(self, errors: Errors) -> Floats:
        self.levels += 1.0
        self.levels *= np.where(errors, self.on_error, self.else_)
        # Runs that alarmed long ago: only that they did matters.
        np.minimum(self.levels, 1e200, out=self.levels)
        return np.asarray(np.log(self.levels.mean(axis=0)))


class Cusum:
    """Page's CUSUM of the known change: optimal in the worst case (Lorden 1971)."""

    def __init__(self, before: float, after: float, runs: int) -> None:
        self.on_error = math.log(after / before)
        self.else_ = math.log((1.0 - after) / (1.0 - before))
        self.level = np.zeros(runs)

    def step(self, errors: Errors) -> Floats:
        self.level = np.maximum(self.level, 0.0) + np.where(errors, self.on_error, self.else_)
        return self.level


class Window:
    """Errors among the last `width` observations."""

    def __init__(self, width: int, runs: int) -> None:
        self.seen = np.zeros((width, runs), dtype=np.int64)
        self.total = np.zeros(runs, dtype=np.int64)
        self.at = 0

    def step(self, errors: Errors) -> Floats:
        self.total += errors - self.seen[self.at]
        self.seen[self.at] = errors
        self.at = (self.at + 1) % len(self.seen)
        return self.total.astype(np.float64)


class Ewma:
    """Exponentially weighted error rate, started at the rate before the change."""

    def __init__(self, before: float, weight: float, runs: int) -> None:
        self.weight = weight
        self.level = np.full(runs, before)

    def step(self, errors: Errors) -> Floats:
        self.level += self.weight * (errors - self.level)
        return self.level


def first_alarms(
    rng: np.random.Generator,
    detectors: Sequence[tuple[Detector, Sequence[float]]],
    rates: Sequence[tuple[float | Floats, int]],
    runs: int,
) -> list[NDArray[np.int64]]:
    """When each detector first reaches each of its thresholds, all on the same errors.

    Args:
        detectors: With rising thresholds each.
        rates: (error rate, of all or per run, observations) one after the other.

    Returns:
        Per detector [thresholds, runs]: observations seen at the alarm, or NEVER.
    """
    grids = [np.array(grid) for _, grid in detectors]
    found = [np.full((len(grid), runs), NEVER) for grid in grids]
    reached = [np.zeros(runs, dtype=np.int64) for _ in detectors]
    draws = itertools.chain.from_iterable(itertools.repeat(rate, length) for rate, length in rates)
    for now, rate in enumerate(draws, start=1):
        errors = rng.random(runs) < rate
        for index, (detector, _) in enumerate(detectors):
            statistic = detector.step(errors)
            highest = np.searchsorted(grids[index], statistic, side="right")
            for run in np.flatnonzero(highest > reached[index]):
                found[index][reached[index][run] : highest[run], run] = now
                reached[index][run] = highest[run]
        if now % 100 == 0 and all(
            there.min() == len(grid) for there, grid in zip(reached, grids, strict=True)
        ):
            break
    return found


def mean_time(alarms: NDArray[np.int64], horizon: int) -> Floats:
    """Mean time to alarm per threshold, from runs cut off at the horizon; infinite without alarms.

    Observations over alarms: the maximum-likelihood estimate where alarms have no memory.
    """
    count = (alarms <= horizon).sum(axis=-1)
    watched = np.minimum(alarms, horizon).sum(axis=-1, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(watched / count)


def river_detectors() -> dict[str, tuple[Callable[[float], Any], dict[float, float], int]]:
    """river's detectors: name -> (made from one parameter, that parameter, cost relative to most).

    The parameter, per error rate before the change, gives a mean time to false alarm of about
    20,000; it was found by bisection, and what it reaches is measured again in every run. All else
    is as river has it, but Page-Hinkley looks for rises only. Two cannot be tuned so: DDM learns
    for 30 samples and, if they held no error, alarms at the first one, whatever its threshold;
    HDDM-W alarms at once with a parameter of 0.15 and never with 0.1. Mended ones stand beside.

    Raises:
        RolloutError: where river is not installed.
    """
    try:
        drift: Any = importlib.import_module("river.drift")
    except ImportError as error:
        raise RolloutError(
            "river is not installed; run: pip install 'early-exit-rollout[benchmarks]'"
        ) from error

    def ddm(value: float, learning: int) -> Any:
        return drift.binary.DDM(learning, warning_threshold=value / 2, drift_threshold=value)

    return {
        "river ADWIN": (lambda value: drift.ADWIN(delta=value), {0.01: 0.87, 0.02: 0.6}, 1),
        "river Page-Hinkley": (
            lambda value: drift.PageHinkley(threshold=value, mode="up"),
            {0.01: 7.9, 0.02: 12.3},
            1,
        ),
        "river DDM": (lambda value: ddm(value, 30), {0.01: 30.0, 0.02: 30.0}, 1),
        "river HDDM-A": (
            lambda value: drift.binary.HDDMA(drift_confidence=value, warning_confidence=value),
            {0.01: 0.12, 0.02: 0.055},
            12,
        ),
        "river HDDM-W": (
            lambda value: drift.binary.HDDMW(drift_confidence=value, warning_confidence=value),
            {0.01: 0.1, 0.02: 0.1},
            12,
        ),
        "ADWIN, mended: looks every time": (
            lambda value: drift.ADWIN(delta=value, clock=1),
            {0.01: 0.74, 0.02: 0.45},
            1,
        ),
        "DDM, mended: learns for 1,000": (
            lambda value: ddm(value, 1_000),
            {0.01: 2.45, 0.02: 2.25},
            1,
        ),
    }


def first_alarm(detector: Any, errors: Sequence[int]) -> int:
    """When a river detector first alarms on these errors, or NEVER."""
    update = detector.update
    for now, error in enumerate(errors, start=1):
        update(error)
        if detector.drift_detected:
            return now
    return NEVER
