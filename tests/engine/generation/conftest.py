"""The full model's own answers, by transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from rollout.engine.generation import TextRequest
from rollout.engine.loading import LoadedModel
from rollout.engine.segments import Segments
from tests.models import random_texts

Answers = Callable[[Segments, Sequence[TextRequest]], list[tuple[int, ...]]]


def encode(loaded: LoadedModel, text: str) -> tuple[int, ...]:
    return tuple(loaded.tokenizer(text)["input_ids"])


def transformers_answers(
    segments: Segments, requests: Sequence[TextRequest]
) -> list[tuple[int, ...]]:
    """`generate` of transformers, request by request."""
    answers = []
    for request in requests:
        prompt = torch.tensor([request.prompt])
        output = segments.loaded.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=request.max_tokens,
            do_sample=False,
        )
        answers.append(tuple(output[0, len(request.prompt) :].tolist()))
    return answers


@pytest.fixture(scope="session")
def requests(loaded: LoadedModel) -> list[TextRequest]:
    """Five prompts and answers, each of its own length."""
    return [
        TextRequest(encode(loaded, text)[: 4 + 3 * number], max_tokens=9 + 2 * number)
        for number, text in enumerate(random_texts(5, seed=3))
    ]


@pytest.fixture(scope="session")
def full(segments: Segments, requests: list[TextRequest]) -> list[tuple[int, ...]]:
    return transformers_answers(segments, requests)
