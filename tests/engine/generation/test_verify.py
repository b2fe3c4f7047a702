"""Self-speculation: whatever is drafted, the answer is the full model's."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.engine.generation import TextRequest, TokenExits, generate
from rollout.engine.segments import Segments

LAYERS = st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True).map(sorted)


@settings(max_examples=20, deadline=None)
@given(layers=LAYERS, draft_tokens=st.integers(1, 9), data=st.data())
def test_verified_answers_equal_full_greedy_output_token_for_token(
    segments: Segments,
    requests: list[TextRequest],
    full: list[tuple[int, ...]],
    layers: list[int],
    draft_tokens: int,
    data: st.DataObject,
) -> None:
    thresholds = data.draw(st.tuples(*[st.floats(0, 0.3)] * len(layers)))
    exits = TokenExits(tuple(layers), thresholds, mode="verify", draft_tokens=draft_tokens)
    answers = generate(segments, requests, exits)
    assert [answer.tokens for answer in answers] == full
    assert all(answer.accepted <= answer.drafted for answer in answers)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 99), threshold=st.floats(0, 0.2))
def test_verified_answers_equal_full_sampled_output_of_the_same_seed(
    segments: Segments, requests: list[TextRequest], seed: int, threshold: float
) -> None:
    sampled = [replace(r, temperature=0.7, top_k=20, seed=seed) for r in requests]
    exits = TokenExits((3,), (threshold,), mode="verify", draft_tokens=3)
    drafted = generate(segments, sampled, exits)
    assert [a.tokens for a in drafted] == [a.tokens for a in generate(segments, sampled)]


def test_drafts_that_stand_are_not_run_again(
    segments: Segments, requests: list[TextRequest], full: list[tuple[int, ...]]
) -> None:
    """With layers that change nothing behind the exit, every draft stands and each runs once."""
    loaded = segments.loaded
    kept = [
        (part, part.weight.data)
        for layer in loaded.layers[2:]
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj)
    ]
    try:
        for part, weight in kept:
            part.weight.data = torch.zeros_like(weight)
        exits = TokenExits((2,), (0.0,), mode="verify", draft_tokens=4)
        answers = generate(segments, requests, exits)
        plain = generate(segments, requests)
    finally:
        for part, weight in kept:
            part.weight.data = weight
    for answer, other in zip(answers, plain, strict=True):
        assert answer.tokens == other.tokens
        assert answer.accepted == answer.drafted > 0
        assert answer.work.layers_run == loaded.depth * len(answer.tokens)
        assert answer.work.layer_calls < other.work.layer_calls


def test_verified_answers_stop_where_the_full_answer_stops(
    segments: Segments, requests: list[TextRequest]
) -> None:
    stops = [replace(r, stop=(generate(segments, [r])[0].text[3:5],)) for r in requests]
    exits = TokenExits((2,), (0.02,), mode="verify", draft_tokens=5)
    for ours, theirs in zip(
        generate(segments, stops, exits), generate(segments, stops), strict=True
    ):
        assert (ours.text, ours.tokens, ours.stop_reason) == (
            theirs.text,
            theirs.tokens,
            theirs.stop_reason,
        )
