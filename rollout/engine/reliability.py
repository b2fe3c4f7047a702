"""How far confidence can be trusted: reliability curve and expected calibration error.

Bins hold equally many answers, since confidences crowd near 1, where equal widths would put nearly
all of them into one bin (Nguyen and O'Connor 2015, Posterior calibration and exploratory analysis,
section 3; for neural networks Guo et al. 2017, On calibration, section 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout.stats.traces import trace_arrays
from rollout.values import DepthTrace

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Answers of similar confidence: how many, how sure on average, how many agreed."""

    answers: int
    confidence: float
    agreement: float


@dataclass(frozen=True)
class Reliability:
    """The curve of one exit, or of all of them.

    Attributes:
        exit_layer: None for all exits together.
        error: Expected calibration error: mean |confidence - agreement| over the bins, weighted by
            their answers.
    """

    exit_layer: int | None
    answers: int
    error: float
    bins: tuple[ReliabilityBin, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def reliability_of(traces: Sequence[DepthTrace]) -> tuple[Reliability, ...]:
    """All exits together, then each one. Confidences that are not finite are left out.

    Args:
        traces: At least one; all with the same exit layers.
    """
    confidence, agrees, _ = trace_arrays(traces, frozenset())
    layers = [point.layer for point in traces[0].exits]
    each = [
        _curve(layer, confidence[:, place], agrees[:, place]) for place, layer in enumerate(layers)
    ]
    return (_curve(None, confidence.ravel(), agrees.ravel()), *each)


def _curve(
    layer: int | None, confidence: NDArray[np.float64], agrees: NDArray[np.bool_]
) -> Reliability:
    finite = np.isfinite(confidence)
    confidence, agrees = confidence[finite], agrees[finite]
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, min(BINS, max(len(order), 1))) if len(part)]
    bins = tuple(
        ReliabilityBin(len(part), float(confidence[part].mean()), float(agrees[part].mean()))
        for part in parts
    )
    gap = sum(one.answers * abs(one.confidence - one.agreement) for one in bins)
    return Reliability(layer, len(order), gap / max(len(order), 1), bins)
