"""The values that cross packages: depth traces, exit policies, the replay of one under the other.

Pure Python, so that the controller can judge a policy without importing torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Arm = Literal["early", "control"]
"""early: may exit early; control: always full depth."""


class RolloutError(Exception):
    """Something a user can mend: the message says what was wrong, where, and what to do.

    The command line prints it and exits with 2; HTTP answers 4xx.
    """


class PolicyError(RolloutError):
    """An exit policy that cannot be served: wrong thresholds, layers, heads or model revision."""


@dataclass(frozen=True)
class ExitPoint:
    """What one exit layer of a full-depth pass would have answered.

    Attributes:
        layer: Decoder layers run when the answer is given (1 to the model's depth - 1).
        answer: Index into the domain's labels.
        confidence: Estimated probability, in [0, 1], that `answer` equals the full-depth answer.
    """

    layer: int
    answer: int
    confidence: float


@dataclass(frozen=True)
class DepthTrace:
    """The answers and confidences at every exit layer of one full-depth pass, shallowest first."""

    exits: tuple[ExitPoint, ...]
    full_answer: int
    depth: int


@dataclass(frozen=True)
class ExitPolicy:
    """An immutable, numbered version of (exit layers, heads, criterion, thresholds) of one domain.

    Attributes:
        version: 1 and up, per domain.
        exit_layers: Rising layer numbers, each in [1, depth - 1].
        thresholds: One per exit layer, in [0, 1]: the exit is taken where confidence >= threshold.
        never_early: Label indices that may not be answered early.
        heads: Content hash (SHA-256, hex) of the exit heads' file.
        criterion: Name of the exit criterion the heads' confidence is made by.
        model_revision: Revision of the model the heads were fitted to.
        depth: Decoder layers of that model.
        probe_cost: Cost of asking one exit head, in layers.
        layer_ms: Measured mean time of one layer for one request, in milliseconds.
    """

    domain: str
    version: int
    exit_layers: tuple[int, ...]
    thresholds: tuple[float, ...]
    heads: str
    criterion: str
    model_revision: str
    depth: int
    never_early: frozenset[int] = frozenset()
    probe_cost: float = 0.0
    layer_ms: float = 0.0

    def __post_init__(self) -> None:
        where = f"policy {self.domain} v{self.version}"
        if len(self.exit_layers) != len(self.thresholds):
            raise PolicyError(
                f"{where}: {len(self.exit_layers)} exit layers but {len(self.thresholds)} "
                "thresholds; give one threshold per exit layer"
            )
        if list(self.exit_layers) != sorted(set(self.exit_layers)):
            raise PolicyError(f"{where}: exit layers {self.exit_layers} must rise")
        for layer in self.exit_layers:
            if not 1 <= layer < self.depth:
                raise PolicyError(
                    f"{where}: exit layer {layer} is outside 1 to {self.depth - 1} "
                    f"(the model has {self.depth} layers)"
                )
        for layer, threshold in zip(self.exit_layers, self.thresholds, strict=True):
            if not (math.isfinite(threshold) and 0.0 <= threshold <= 1.0):
                raise PolicyError(
                    f"{where}: threshold {threshold} at layer {layer} is outside [0, 1]"
                )


@dataclass(frozen=True)
class Replay:
    """What a policy would have answered for a traced request, and at what depth.

    Attributes:
        exit_layer: The layer of the exit, or None where no exit was confident enough (fallback).
        answer: Label index.
        agrees: Whether `answer` equals the full-depth answer (a fallback agrees by construction).
        layers_run: Layers computed for the answer.
        probes: Exit heads asked on the way.
    """

    exit_layer: int | None
    answer: int
    agrees: bool
    layers_run: int
    probes: int


def takes_exit(policy: ExitPolicy, point: ExitPoint) -> bool:
    """Whether `policy` answers at `point`. A NaN confidence never does."""
    if point.answer in policy.never_early:
        return False
    threshold = dict(zip(policy.exit_layers, policy.thresholds, strict=True)).get(point.layer)
    return threshold is not None and point.confidence >= threshold


def replay(trace: DepthTrace, policy: ExitPolicy) -> Replay:
    """Answer a traced request again under `policy`: same function live, offline and in forecasts.

    >>> trace = DepthTrace((ExitPoint(2, 0, 0.7), ExitPoint(4, 1, 0.99)), full_answer=1, depth=8)
    >>> policy = ExitPolicy("billing", 1, (2, 4), (0.9, 0.9), "", "margin", "", 8)
    >>> replay(trace, policy)
    Replay(exit_layer=4, answer=1, agrees=True, layers_run=4, probes=2)
    """
    probes = 0
    for point in trace.exits:
        if point.layer not in policy.exit_layers:
            continue
        probes += 1
        if takes_exit(policy, point):
            agrees = point.answer == trace.full_answer
            return Replay(point.layer, point.answer, agrees, point.layer, probes)
    return Replay(None, trace.full_answer, True, trace.depth, probes)
