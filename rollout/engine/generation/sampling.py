"""The next token from logits: the best one, or a draw that hangs on seed and position alone.

A draw is a race of exponentials (the Gumbel-max trick; Maddison et al. 2014): two distributions
under one seed give the same token wherever they agree well enough. So a sampled answer can be
verified and shadowed token for token like a greedy one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rollout.engine.generation.request import TextRequest


def next_tokens(
    logits: Tensor, requests: Sequence[TextRequest], positions: Sequence[int]
) -> list[int]:
    """The token each request takes.

    Args:
        logits: [requests, vocabulary].
        positions: Index of the token in each request's answer, from 0.
    """
    best: list[int] = logits.argmax(-1).tolist()
    return [
        token if request.greedy else _draw(row, request, position)
        for token, row, request, position in zip(best, logits, requests, positions, strict=True)
    ]


def _draw(logits: Tensor, request: TextRequest, position: int) -> int:
    warped: Tensor = warpers(request)(None, logits[None].float())  # type: ignore[arg-type]
    probabilities = warped[0].softmax(-1).cpu()
    generator = torch.Generator().manual_seed(_seed(request.seed, position))
    race = torch.empty_like(probabilities).exponential_(generator=generator)
    return int((probabilities / race).argmax())


def warpers(request: TextRequest) -> LogitsProcessorList:
    """Temperature, top-k and top-p as transformers applies them, in its order."""
    chosen = LogitsProcessorList([TemperatureLogitsWarper(request.temperature)])
    if request.top_k:
        chosen.append(TopKLogitsWarper(request.top_k))
    if request.top_p < 1:
        chosen.append(TopPLogitsWarper(request.top_p))
    return chosen


def _seed(seed: int, position: int) -> int:
    digest = hashlib.sha256(f"token:{seed}:{position}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 11
