"""The shadow of an answer: agreement per token, and of the texts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rollout.engine.generation import TextRequest, TokenExits, generate, shadow
from rollout.engine.generation.shadow import compare, similarity
from rollout.engine.segments import Segments


@pytest.mark.parametrize("kind", ["deferred", "propagate"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_each_token_is_compared_with_the_full_models_in_its_place(
    segments: Segments, requests: list[TextRequest], kind: str, temperature: float
) -> None:
    asked = [replace(r, temperature=temperature, shadow=True) for r in requests]
    answers = generate(segments, asked, TokenExits((2, 4), (0.1, 0.1), skipped_keys=kind))
    assert {True, False} <= {same for a in answers for same in a.agreement.by_token}
    for request, answer in zip(asked, answers, strict=True):
        for place in range(len(answer.tokens)):
            so_far = replace(request, prompt=(*request.prompt, *answer.tokens[:place]))
            if temperature == 0:
                only = generate(segments, [replace(so_far, max_tokens=1)])[0].tokens[0]
                assert (only == answer.tokens[place]) == answer.agreement.by_token[place]
        assert answer.agreement.share == pytest.approx(
            sum(answer.agreement.by_token) / len(answer.tokens)
        )


def test_the_full_models_own_answers_agree_with_themselves(
    segments: Segments, requests: list[TextRequest]
) -> None:
    for temperature in (0.0, 1.0):
        asked = [replace(request, temperature=temperature) for request in requests]
        answers = generate(segments, asked)
        for found in shadow(segments, asked, answers, [a.text for a in answers]):
            assert found.share == found.similarity == 1.0 and found.exact


def test_a_verified_answer_agrees_by_construction(
    segments: Segments, requests: list[TextRequest]
) -> None:
    asked = [replace(request, shadow=True) for request in requests]
    for answer in generate(segments, asked, TokenExits((2,), (0.05,), mode="verify")):
        assert answer.agreement.exact and all(answer.agreement.by_token)
        assert answer.work.shadow_layers == 0


def test_similarity_is_one_for_the_same_text_nought_for_another() -> None:
    assert similarity("refund the invoice", "refund the invoice") == 1.0
    assert similarity("abc", "xyz") == 0.0
    assert similarity("", "") == 1.0
    assert similarity("", "xyz") == 0.0
    assert 0.5 < similarity("refund the invoice", "refund the invoices now") < 1.0


def test_the_full_text_ends_before_the_stop_string_too(segments: Segments) -> None:
    tokenizer = segments.loaded.tokenizer
    ours, theirs = (
        tokenizer("refund my plan")["input_ids"],
        tokenizer("cancel my plan")["input_ids"],
    )
    length = min(len(ours), len(theirs))
    request = TextRequest((1,), stop=("plan",))
    found = compare(tokenizer, request, ours[:length], theirs[:length], "refund my ")
    assert "plan" not in found.full_text
    assert not found.exact
    assert torch.tensor(found.by_token).float().mean() == found.share
