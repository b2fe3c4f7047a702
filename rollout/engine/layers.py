"""Answers at every layer, and answers without one layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import kl_div

from rollout.engine.segments import Segments, SegmentState
from rollout.engine.task import ChoiceTask
from rollout.values import RolloutError

BATCH = 32

Prompt = list[list[int]]
"""`task.encode(text)`: the token ids, once per branch."""


@torch.inference_mode()
def lens_answers(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[Prompt],
    step: Callable[[], None] = lambda: None,
) -> NDArray[np.int64]:
    """The best label after each layer, read by the logit lens, [prompts, depth].

    The final norm and the label rows are applied to every layer's hidden state (nostalgebraist
    2020, Interpreting GPT: the logit lens), as in the published experiment; the last column is the
    model's own answer.

    Args:
        step: Called after each batch of `BATCH` prompts.

    Raises:
        RolloutError: the model's scores are not finite.
    """
    answers = np.zeros((len(prompts), segments.loaded.depth), dtype=np.int64)
    for rows in _batches(prompts):
        state = _start(segments, prompts, rows)
        columns = []
        for layer in range(1, segments.loaded.depth + 1):
            state = segments.advance(state, layer)
            scores = task.scores(segments.loaded.norm(state.last_hidden))
            columns.append(scores.argmax(-1))
        _check_finite(scores)
        answers[rows] = torch.stack(columns, dim=-1).cpu().numpy()
        step()
    return answers


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
    for rows in _batches(prompts):
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


def batch_count(prompts: int) -> int:
    return -(-prompts // BATCH)


def _batches(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Row numbers, prompts of like length together: less padding."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row][0]))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def _start(segments: Segments, prompts: Sequence[Prompt], rows: Sequence[int]) -> SegmentState:
    return segments.start([branch for row in rows for branch in prompts[row]])


def _check_finite(scores: torch.Tensor) -> None:
    if not scores.isfinite().all():
        raise RolloutError("the full model's label scores are not finite: it cannot be analysed")
