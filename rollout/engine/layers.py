"""Answers at every layer, and answers without one layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import kl_div

from rollout.engine.collect import BATCH, by_length, collect
from rollout.engine.distil import FittedHead, fit_label_head
from rollout.engine.heads import head_scores
from rollout.engine.segments import Segments, SegmentState
from rollout.engine.task import ChoiceTask
from rollout.values import RolloutError

KIND = "label_head"
"""The calibrated heads that every layer is asked with."""

Prompt = list[list[int]]
"""`task.encode(text)`: the token ids, once per branch."""


@torch.inference_mode()
def answers_by_layer(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[Prompt],
    heads: Mapping[int, FittedHead] | None = None,
    step: Callable[[], None] = lambda: None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The best label after each layer, read by the logit lens and by distilled label heads.

    The lens applies the final norm and the label rows to every layer's hidden state (nostalgebraist
    2020, Interpreting GPT: the logit lens), as in the published experiment.

    Args:
        heads: Label heads by layer, in order.
        step: Called after each batch of `BATCH` prompts.

    Returns:
        By the lens, [prompts, depth]; by the heads, [prompts, heads + 1]. The last column of both
        is the model's own answer.

    Raises:
        RolloutError: the model's scores are not finite.
    """
    depth = segments.loaded.depth
    by_lens = np.zeros((len(prompts), depth), dtype=np.int64)
    by_heads = np.zeros((len(prompts), len(heads or {}) + 1), dtype=np.int64)
    for rows in by_length(prompts):
        part = collect(segments, task, [prompts[row] for row in rows], range(1, depth))
        _check_finite(part.scores)
        lens = [
            task.scores(segments.loaded.norm(part.last[layer].flatten(0, 1)))
            for layer in range(1, depth)
        ]
        asked = [
            head_scores(
                KIND, task, head.weight[None], head.bias[None], part.seen(KIND, layer)[None]
            )[0]
            for layer, head in (heads or {}).items()
        ]
        by_lens[rows] = _best([*lens, part.scores])
        by_heads[rows] = _best([*asked, part.scores])
        step()
    return by_lens, by_heads


def fit_label_heads(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    step: Callable[[], None] = lambda: None,
) -> dict[int, FittedHead]:
    """A label head per layer, distilled to the full model's answers to these prompts."""
    collected = collect(segments, task, prompts, layers, step)
    return {
        layer: fit_label_head(task, collected.seen(KIND, layer), collected.scores)
        for layer in layers
    }


@torch.inference_mode()
def without_each_layer(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[Prompt],
    step: Callable[[], None] = lambda: None,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """What becomes of the answers when one layer's contribution to the residual stream is left out.

    Costs about half the depth in full passes.

    Returns:
        Whether the answer stays, and the Kullback-Leibler divergence (nats) of the label
        distribution from the whole model's; both [prompts, depth], by the layer left out.

    Raises:
        RolloutError: the model's scores are not finite.
    """
    depth = segments.loaded.depth
    agrees = np.zeros((len(prompts), depth), dtype=bool)
    divergence = np.zeros((len(prompts), depth))
    for rows in by_length(prompts):
        before = [_start(segments, prompts, rows)]
        for layer in range(1, depth + 1):
            before.append(segments.advance(before[-1], layer))
        full = task.scores(segments.loaded.norm(before.pop().last_hidden))
        _check_finite(full)
        goal = full.log_softmax(-1)
        for index, state in enumerate(before):
            state = segments.advance(replace(state, layer=index + 1), depth)
            scores = task.scores(segments.loaded.norm(state.last_hidden))
            agrees[rows, index] = (scores.argmax(-1) == full.argmax(-1)).cpu().numpy()
            moved = kl_div(scores.log_softmax(-1), goal, log_target=True, reduction="none").sum(-1)
            divergence[rows, index] = moved.double().cpu().numpy()
        step()
    return agrees, divergence


def _best(scores: Sequence[torch.Tensor]) -> NDArray[np.int64]:
    """The best label, [rows, layers], of scores [rows, labels] at each layer."""
    best: NDArray[np.int64] = torch.stack(list(scores), dim=1).argmax(-1).cpu().numpy()
    return best


def batch_count(prompts: int) -> int:
    return -(-prompts // BATCH)


def _start(segments: Segments, prompts: Sequence[Prompt], rows: Sequence[int]) -> SegmentState:
    return segments.start([branch for row in rows for branch in prompts[row]])


def _check_finite(scores: torch.Tensor) -> None:
    if not scores.isfinite().all():
        raise RolloutError("the full model's label scores are not finite: it cannot be analysed")
