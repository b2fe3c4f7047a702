"""What each layer knows: agreement and accuracy by layer, the depth needed, layers to do without.

The published experiment (stop at every layer, compare with the last one; skip a layer, compare
again) on the reader's own requests.

Reference: Fan et al. (2024), Not all layers of LLMs are necessary during inference (AdaInfer),
sec. 3 (answers layer by layer, tasks need different depths).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.stats.forecast import Estimate, share

UNLABELLED = -1
"""Stands for a label that the file does not have."""


@dataclass(frozen=True)
class LayerCurve:
    """Answers layer by layer, compared with the last layer's and with the truth.

    Attributes:
        layers: Layer numbers, rising; the last one is the model's depth.
        agreement: With the last layer's answer, at each layer.
        accuracy: Against the file's labels, at each layer; None where it has none.
        settled: Share of requests whose answer no longer changes from that layer on.
        oracle_saving: Share of the depth saved if every request stopped where its answer settles:
            what no policy over these answers can beat, probes not counted.
    """

    layers: tuple[int, ...]
    agreement: tuple[Estimate, ...]
    accuracy: tuple[Estimate, ...] | None
    settled: tuple[float, ...]
    oracle_saving: float

    def needed(self, part: float) -> int:
        """The depth that settles this share of the requests, such as 0.5 for the median."""
        reached = zip(self.layers, self.settled, strict=True)
        return next(layer for layer, settled in reached if settled >= part - 1e-12)


@dataclass(frozen=True)
class LayerImportance:
    """What the answers lose where one layer's contribution is left out.

    Attributes:
        agreement: With the whole model's answers.
        divergence: Mean Kullback-Leibler divergence of the label distribution from the whole
            model's, in nats.
    """

    layer: int
    agreement: Estimate
    divergence: float


def depth_needed(answers: ArrayLike) -> NDArray[np.int64]:
    """Which column each request's answer no longer changes from, [rows], the first one being 1.

    Args:
        answers: [rows, layers], the answer at each layer; the last column is the full model's.

    >>> depth_needed([[2, 1, 1], [1, 2, 1], [1, 1, 1]])
    array([2, 3, 1])
    """
    found = np.asarray(answers)
    # Counted from the end: how long the answer has stood.
    stands = np.cumprod((found == found[:, -1:])[:, ::-1], axis=1).sum(axis=1)
    return np.asarray(found.shape[1] - stands + 1, dtype=np.int64)


def layer_curve(answers: ArrayLike, layers: Sequence[int], truth: ArrayLike) -> LayerCurve:
    """Agreement, accuracy and settling by layer.

    Args:
        answers: [rows, layers]; the last column is the full model's.
        layers: The number of each column, rising.
        truth: [rows], `UNLABELLED` where unknown.

    Raises:
        ValueError: there are no rows.
    """
    found, right = np.asarray(answers), np.asarray(truth)
    known = right != UNLABELLED
    needed = np.array(layers)[depth_needed(found) - 1]
    accuracy = None
    if known.any():
        accuracy = tuple(share(column[known] == right[known]) for column in found.T)
    return LayerCurve(
        tuple(layers),
        tuple(share(column == found[:, -1]) for column in found.T),
        accuracy,
        tuple(float((needed <= layer).mean()) for layer in layers),
        1 - float(needed.mean()) / layers[-1],
    )


def layer_importance(agrees: ArrayLike, divergence: ArrayLike) -> tuple[LayerImportance, ...]:
    """Of each layer, in order.

    Args:
        agrees: [rows, depth], whether the answer stands with that layer left out.
        divergence: [rows, depth], in nats.
    """
    kept, moved = np.asarray(agrees, dtype=bool), np.asarray(divergence, dtype=np.float64)
    return tuple(
        LayerImportance(layer, share(column), float(moved[:, layer - 1].mean()))
        for layer, column in enumerate(kept.T, start=1)
    )


def dispensable(importance: Sequence[LayerImportance], agreement: float) -> tuple[int, ...]:
    """Layers each of which, left out alone, leaves at least this agreement."""
    return tuple(one.layer for one in importance if one.agreement.value >= agreement)
