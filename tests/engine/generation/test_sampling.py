"""Sampled tokens: the full distribution, repeatable, each request by its own seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from rollout.engine.generation import TextRequest, TokenExits, generate
from rollout.engine.generation.sampling import next_tokens
from rollout.engine.segments import Segments


def test_draws_follow_the_models_distribution() -> None:
    logits = torch.randn(6, generator=torch.Generator().manual_seed(0))
    request = TextRequest((1,), temperature=0.8)
    draws = 4000
    tokens = next_tokens(
        logits.expand(draws, -1),
        [replace(request, seed=seed) for seed in range(draws)],
        [seed % 7 for seed in range(draws)],
    )
    expected = (logits.double() / 0.8).softmax(-1).numpy() * draws
    assert chisquare(np.bincount(tokens, minlength=6), expected).pvalue > 1e-3


def test_the_same_seed_repeats_and_another_differs(
    segments: Segments, requests: list[TextRequest]
) -> None:
    sampled = [replace(request, temperature=1.0, seed=4) for request in requests]
    first = [answer.tokens for answer in generate(segments, sampled)]
    assert [answer.tokens for answer in generate(segments, sampled)] == first
    other = [replace(request, seed=5) for request in sampled]
    assert [answer.tokens for answer in generate(segments, other)] != first


def test_without_exits_every_sampled_token_is_the_full_models_draw(
    segments: Segments, requests: list[TextRequest]
) -> None:
    sampled = [replace(r, temperature=0.9, top_p=0.8, seed=n) for n, r in enumerate(requests)]
    for request, answer in zip(sampled, generate(segments, sampled), strict=True):
        tokens = torch.tensor([[*request.prompt, *answer.tokens]])
        with torch.inference_mode():
            logits = segments.loaded.model(tokens).logits[0, len(request.prompt) - 1 : -1]
        count = len(answer.tokens)
        assert next_tokens(logits, [request] * count, range(count)) == list(answer.tokens)


def test_a_sampled_answer_does_not_depend_on_its_batch_mates(
    segments: Segments, requests: list[TextRequest]
) -> None:
    mixed = [replace(r, temperature=0.5 * (n % 2), seed=n) for n, r in enumerate(requests)]
    exits = TokenExits((2, 4), (0.05, 0.1))
    together = generate(segments, mixed, exits)
    for request, answer in zip(mixed, together, strict=True):
        assert generate(segments, [request], exits)[0].tokens == answer.tokens


@pytest.mark.parametrize("limit", [{"top_k": 1}, {"top_p": 1e-6}])
def test_only_the_best_token_left_is_greedy(limit: dict[str, float]) -> None:
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    request = TextRequest((1,), temperature=2.0, **limit)  # type: ignore[arg-type]
    assert next_tokens(logits, [request] * 5, range(5)) == logits.argmax(-1).tolist()
