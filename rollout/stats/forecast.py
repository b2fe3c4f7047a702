"""What early exit would save, forecast from depth traces: chosen on one part, judged on another.

Every figure comes with its interval. Shares of requests have the exact binomial one (Clopper and
Pearson 1934); a mean saving has Student's, which is an approximation for bounded values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from rollout.stats.intervals import clopper_pearson
from rollout.stats.thresholds import choose_threshold, propose_thresholds
from rollout.stats.traces import trace_arrays
from rollout.values import DepthTrace, ExitPolicy

ALPHA = 0.05
"""Every interval holds with 95 % confidence."""
THRESHOLDS = 32
"""Thresholds tried for a forecast: quantiles of the confidences."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its two-sided 95 % interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Forecast:
    """What the best policy for one target would do.

    Attributes:
        target: Agreement with full depth that was asked for, over all requests.
        threshold: Confidence from which an exit is taken; None where no threshold that reached the
            target saved anything where it was chosen: full depth is right.
        agreement: With full depth, over all requests of the judging part.
        exit_share: Share of them answered early.
        mean_layers: Mean layers run for an answer, probes not counted.
        saving: Share of the full depth saved, net of probes.
        certified_saving: The saving, on the judging part, of the threshold that a certificate at
            this target allows on the choosing part; None where its rows certify none.
    """

    target: float
    threshold: float | None
    agreement: Estimate
    exit_share: float
    mean_layers: float
    saving: Estimate
    certified_saving: float | None


def share(hits: ArrayLike) -> Estimate:
    """A share of independent requests, with its exact interval.

    Raises:
        ValueError: there are none.

    >>> found = share([True] * 9 + [False])
    >>> found.value, round(found.lower, 3), round(found.upper, 3)
    (0.9, 0.555, 0.997)
    """
    found = np.asarray(hits, dtype=bool)
    if not found.size:
        raise ValueError("a share of no requests")
    lower, upper = clopper_pearson(int(found.sum()), found.size, ALPHA)
    return Estimate(float(found.mean()), lower, upper)


def bounded_mean(values: ArrayLike, lowest: float, highest: float) -> Estimate:
    """A mean of independent values within [lowest, highest].

    Student's interval, cut at the bounds. Where all values are equal it would have no width: then
    at most a share 1 - (alpha / 2)^(1 / n) of requests can be otherwise (exact binomial), which
    may lie at either bound.

    Raises:
        ValueError: there are no values.

    >>> found = bounded_mean([0.0] * 100, 0.0, 0.5)
    >>> found.value, found.lower, round(found.upper, 3)
    (0.0, 0.0, 0.018)
    """
    found = np.asarray(values, dtype=np.float64)
    if not found.size:
        raise ValueError("a mean of no values")
    mean = float(found.mean())
    if np.ptp(found) > 1e-12:
        half = float(student.ppf(1 - ALPHA / 2, found.size - 1)) * float(found.std(ddof=1))
        half /= math.sqrt(found.size)
        return Estimate(mean, max(mean - half, lowest), min(mean + half, highest))
    otherwise = 1 - clopper_pearson(found.size, found.size, ALPHA)[0]
    return Estimate(mean, mean - otherwise * (mean - lowest), mean + otherwise * (highest - mean))


def forecast(
    proposing: Sequence[DepthTrace],
    certifying: Sequence[DepthTrace],
    judging: Sequence[DepthTrace],
    policy: ExitPolicy,
    target: float,
) -> Forecast:
    """Choose the threshold that saves most at the target on two parts; judge it on the third.

    Where it is chosen, the expected disagreement is the larger of what is seen and what the
    confidences predict: few rows that happen to hold no mismatch do not make a threshold safe.
    Whether the target holds is what the judging part says.

    Args:
        proposing: Traces that also propose a certificate's candidates, and certify nothing.
        certifying: Traces that certify; empty where there are too few.
        judging: Traces of independent requests on which nothing was fitted or chosen.
        policy: Exit layers (those of the traces), bars, depth and probe cost; its thresholds are
            replaced.
        target: In (0, 1).

    Raises:
        ValueError: nothing to choose or to judge on, or a target outside (0, 1).
    """
    choosing = [*proposing, *certifying]
    if not choosing or not judging:
        raise ValueError(f"{len(choosing)} traces to choose on, {len(judging)} to judge on")
    if not 0.0 < target < 1.0:
        raise ValueError(f"target {target} must lie strictly between 0 and 1")
    chosen, judged = (_Traces.of(part, policy) for part in (choosing, judging))
    limit = round(1 - target, 12)
    best, best_saving = None, 0.0
    for threshold in propose_thresholds(chosen.usable, THRESHOLDS):
        walked = chosen.walk(threshold)
        if walked.risk <= limit and walked.savings.mean() > best_saving:
            best, best_saving = threshold, float(walked.savings.mean())
    certified_saving = None
    if certifying:
        certified = choose_threshold(
            *trace_arrays(choosing, policy.never_early),
            policy.exit_layers,
            policy.depth,
            policy.probe_cost,
            limit,
            ALPHA,
            choose_on=np.arange(len(choosing)) < len(proposing),
        )
        if certified is not None:
            certified_saving = float(judged.walk(certified.threshold).savings.mean())
    if best is None:
        sure, nothing = Estimate(1.0, 1.0, 1.0), Estimate(0.0, 0.0, 0.0)
        return Forecast(target, None, sure, 0.0, float(policy.depth), nothing, certified_saving)
    walked = judged.walk(best)
    highest = 1 - (policy.exit_layers[0] + policy.probe_cost) / policy.depth
    lowest = -policy.probe_cost * len(policy.exit_layers) / policy.depth
    return Forecast(
        target,
        best,
        share(walked.agrees),
        float(walked.early.mean()),
        float(walked.layers.mean()),
        bounded_mean(walked.savings, lowest, highest),
        certified_saving,
    )


@dataclass(frozen=True)
class _Walked:
    """What one threshold does, [rows] each; `risk` is the expected share answered differently."""

    savings: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    early: NDArray[np.bool_]
    layers: NDArray[np.int64]
    risk: float


@dataclass(frozen=True)
class _Traces:
    """Confidences, NaN where an exit may not be taken, and agreement, [rows, exits] each."""

    usable: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    policy: ExitPolicy

    @classmethod
    def of(cls, traces: Sequence[DepthTrace], policy: ExitPolicy) -> _Traces:
        confidence, agrees, allowed = trace_arrays(traces, policy.never_early)
        return cls(np.where(allowed, confidence, np.nan), agrees, policy)

    def walk(self, threshold: float) -> _Walked:
        """`rollout.values.replay` of every trace at one threshold for all exits."""
        policy, exits = self.policy, self.usable.shape[1]
        takes = self.usable >= threshold
        early = np.asarray(takes.any(axis=1))
        first = np.where(early, takes.argmax(axis=1), exits)
        layers = np.array([*policy.exit_layers, policy.depth])[first]
        probes = np.minimum(first + 1, exits)
        rows, asked = np.arange(len(early)), np.minimum(first, exits - 1)
        agrees = ~early | self.agrees[rows, asked]
        doubt = float(np.where(early, 1 - self.usable[rows, asked], 0.0).mean())
        savings = 1 - (layers + policy.probe_cost * probes) / policy.depth
        return _Walked(savings, agrees, early, layers, max(float((~agrees).mean()), doubt))
