"""Choose exit layers and criterion by what they would save, on rows that certify nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rollout.engine.collect import Collected
from rollout.engine.confidence import cross_fitted, fit_judge
from rollout.engine.criteria import Reading, features
from rollout.engine.distil import FittedHead
from rollout.engine.heads import ExitHead
from rollout.engine.placement import expected_saving, place_exits
from rollout.engine.task import TIE
from rollout.stats.traces import trace_arrays
from rollout.values import DepthTrace, ExitPoint

PLACING = "top_probability"
"""The criterion that heads and layers are chosen by: it needs no exit before."""


@dataclass(frozen=True)
class Aim:
    """What is maximised: the net saving.

    Attributes:
        limit: Share of requests that may be answered differently.
        never_early: Label indices that may not be answered early.
    """

    limit: float
    depth: int
    probe_cost: float
    never_early: frozenset[int]


@dataclass(frozen=True)
class Heard:
    """What fitted heads say of the rows they were not fitted on.

    Attributes:
        values: Features of a criterion, [exits, rows, features].
        answer, tied: [exits, rows].
        full: The full model's answers, [rows].
    """

    layers: tuple[int, ...]
    values: NDArray[np.float64]
    answer: NDArray[np.int64]
    tied: NDArray[np.bool_]
    full: NDArray[np.int64]

    @property
    def agrees(self) -> NDArray[np.bool_]:
        return np.asarray(self.answer == self.full)


def choose_layers(
    collected: Collected, fitted: Mapping[int, FittedHead], aim: Aim, *, all_layers: bool
) -> tuple[tuple[int, ...], float]:
    """(exit layers, expected net saving), each candidate judged by its own scores."""
    layers = tuple(fitted)
    traces = propose(PLACING, collected, fitted)
    confidence, agrees, allowed = trace_arrays(traces, aim.never_early)
    if not all_layers:
        layers = place_exits(
            confidence, agrees, allowed, layers, aim.depth, aim.probe_cost, aim.limit
        )
    kept = [tuple(fitted).index(layer) for layer in layers]
    expected = expected_saving(
        confidence[:, kept],
        agrees[:, kept],
        allowed[:, kept],
        layers,
        aim.depth,
        aim.probe_cost,
        aim.limit,
    )
    return layers, expected.net_saving


def choose_criterion(
    collected: Collected, fitted: Mapping[int, FittedHead], aim: Aim, criteria: Iterable[str]
) -> tuple[str, tuple[DepthTrace, ...]]:
    """The criterion that saves most, the first of equals, and the traces it makes."""
    best: tuple[float, str, tuple[DepthTrace, ...]] | None = None
    for criterion in criteria:
        traces = propose(criterion, collected, fitted)
        arrays = trace_arrays(traces, aim.never_early)
        expected = expected_saving(*arrays, tuple(fitted), aim.depth, aim.probe_cost, aim.limit)
        if best is None or expected.net_saving > best[0]:
            best = expected.net_saving, criterion, traces
    assert best is not None
    return best[1], best[2]


def propose(
    criterion: str, collected: Collected, fitted: Mapping[int, FittedHead]
) -> tuple[DepthTrace, ...]:
    """Traces of the fitting rows, by heads and judges that had not seen the row."""
    heard = _hear(criterion, collected, fitted)
    confidence = np.stack(
        [
            cross_fitted(criterion, values, agrees)
            for values, agrees in zip(heard.values, heard.agrees, strict=True)
        ]
    )
    confidence[heard.tied] = 0.0
    return tuple(
        DepthTrace(
            tuple(
                ExitPoint(layer, int(heard.answer[exit_, row]), float(confidence[exit_, row]))
                for exit_, layer in enumerate(heard.layers)
            ),
            int(full),
            collected.depth,
        )
        for row, full in enumerate(heard.full)
    )


def judged(
    criterion: str, collected: Collected, fitted: Mapping[int, FittedHead]
) -> dict[int, ExitHead]:
    """The heads with their judges, fitted on all rows that their heads can be judged on."""
    heard = _hear(criterion, collected, fitted)
    device = collected.scores.device
    heads = {}
    for exit_, (layer, head) in enumerate(fitted.items()):
        judge = fit_judge(criterion, heard.values[exit_], heard.agrees[exit_])
        heads[layer] = ExitHead(
            head.weight,
            head.bias,
            torch.tensor(judge.calibration, dtype=torch.float32, device=device),
            torch.tensor(judge.support, dtype=torch.float32, device=device),
        )
    return heads


@torch.inference_mode()
def _hear(criterion: str, collected: Collected, fitted: Mapping[int, FittedHead]) -> Heard:
    rows = next(iter(fitted.values())).honest
    scores = torch.stack([head.scores for head in fitted.values()])
    hidden = torch.stack([collected.last[layer][rows, 0] for layer in fitted])
    reading = Reading.of(scores, hidden, None)
    return Heard(
        tuple(fitted),
        features(criterion, reading).double().cpu().numpy(),
        reading.answer.cpu().numpy(),
        (reading.margin < TIE[hidden.dtype]).cpu().numpy(),
        collected.scores[rows].argmax(-1).cpu().numpy(),
    )
