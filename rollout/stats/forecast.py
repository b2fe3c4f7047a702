"""What early exit would save, forecast from depth traces: chosen on one part, judged on another.

Every figure comes with its interval. Shares of requests have the exact binomial one (Clopper and
Pearson 1934); a mean saving has Student's, which is an approximation for bounded values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from rollout.stats.intervals import clopper_pearson
from rollout.stats.thresholds import choose_threshold, propose_thresholds
from rollout.stats.traces import trace_arrays
from rollout.values import DepthTrace, ExitPolicy, replay

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
            target saved anything: full depth is right.
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
    choosing: Sequence[DepthTrace],
    judging: Sequence[DepthTrace],
    policy: ExitPolicy,
    target: float,
) -> Forecast:
    """Choose the threshold that saves most at the target on one part; judge it on the other.

    On the choosing part the agreement seen must reach the target; whether it holds is what the
    judging part says.

    Args:
        choosing, judging: Traces of independent requests on which nothing was fitted.
        policy: Exit layers, bars, depth and probe cost; its thresholds are replaced.
        target: In (0, 1).

    Raises:
        ValueError: a part is empty, or a target outside (0, 1).
    """
    if not choosing or not judging:
        raise ValueError(f"{len(choosing)} traces to choose on, {len(judging)} to judge on")
    if not 0.0 < target < 1.0:
        raise ValueError(f"target {target} must lie strictly between 0 and 1")
    chosen = [_only(trace, policy.exit_layers) for trace in choosing]
    confidence, agrees, allowed = trace_arrays(chosen, policy.never_early)
    best, best_saving = None, 0.0
    for threshold in propose_thresholds(np.where(allowed, confidence, np.nan), THRESHOLDS):
        savings, right, _, _ = _replayed(chosen, policy, threshold)
        if right.mean() >= target and savings.mean() > best_saving:
            best, best_saving = threshold, float(savings.mean())
    certified = choose_threshold(
        confidence,
        agrees,
        allowed,
        policy.exit_layers,
        policy.depth,
        policy.probe_cost,
        round(1 - target, 12),
        ALPHA,
    )
    certified_saving = None
    if certified is not None:
        certified_saving = float(_replayed(judging, policy, certified.threshold)[0].mean())
    if best is None:
        sure = Estimate(1.0, 1.0, 1.0)
        nothing = Estimate(0.0, 0.0, 0.0)
        return Forecast(target, None, sure, 0.0, float(policy.depth), nothing, certified_saving)
    savings, right, early, layers = _replayed(judging, policy, best)
    highest = 1 - (policy.exit_layers[0] + policy.probe_cost) / policy.depth
    lowest = -policy.probe_cost * len(policy.exit_layers) / policy.depth
    return Forecast(
        target,
        best,
        share(right),
        float(early.mean()),
        float(layers.mean()),
        bounded_mean(savings, lowest, highest),
        certified_saving,
    )


def _replayed(
    traces: Sequence[DepthTrace], policy: ExitPolicy, threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """Net saving, agreement, whether early, and layers run, each [traces]."""
    at = replace(policy, thresholds=(threshold,) * len(policy.exit_layers))
    results = [replay(trace, at) for trace in traces]
    layers = np.array([result.layers_run for result in results])
    probes = np.array([result.probes for result in results])
    savings = 1 - (layers + policy.probe_cost * probes) / policy.depth
    right = np.array([result.agrees for result in results])
    return savings, right, np.array([result.exit_layer is not None for result in results]), layers


def _only(trace: DepthTrace, layers: Sequence[int]) -> DepthTrace:
    return replace(trace, exits=tuple(point for point in trace.exits if point.layer in layers))
