"""What cannot be run is refused in words; what is not finite is not believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rollout.engine.generation import (
    GenerationError,
    TextRequest,
    TokenExits,
    TokenHead,
    generate,
    shadow,
)
from rollout.engine.loading import load_model
from rollout.engine.segments import Segments
from rollout.values import PolicyError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": ()}, "prompt: it has no token"),
        ({"prompt": (5, 100_000)}, "token 100000 is outside the vocabulary"),
        ({"prompt": (5,) * 60, "max_tokens": 5}, "come to 65 tokens, the model's context holds 64"),
        ({"max_tokens": 0}, "max_tokens: 0 is below 1"),
        ({"temperature": -0.1}, "temperature: -0.1"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"top_k": -1}, "top_k: -1"),
        ({"top_p": 0.0}, "top_p: 0.0"),
        ({"stop": ("x", "")}, "stop: an empty string"),
    ],
)
def test_a_request_out_of_bounds_is_refused(
    segments: Segments, fields: dict[str, Any], message: str
) -> None:
    request = TextRequest(**{"prompt": (5, 6), "max_tokens": 4, **fields})
    with pytest.raises(GenerationError, match=message):
        generate(segments, [request])


def test_an_empty_batch_is_refused(segments: Segments) -> None:
    with pytest.raises(GenerationError, match="at least one request"):
        generate(segments, [])


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        (TokenExits((2,), ()), "1 exit layers but 0 thresholds"),
        (TokenExits((4, 2), (0.5, 0.5)), "must rise"),
        (TokenExits((6,), (0.5,)), "exit layer 6 is outside 1 to 5"),
        (TokenExits((0,), (0.5,)), "exit layer 0 is outside 1 to 5"),
        (TokenExits((2,), (1.5,)), "threshold 1.5 at layer 2"),
        (TokenExits((2,), (float("nan"),)), "threshold nan at layer 2"),
        (TokenExits((2,), (0.5,), decay=-1.0), "decay -1.0"),
        (TokenExits((2,), (0.5,), mode="verify", draft_tokens=0), "draft_tokens 0"),
        (TokenExits((2,), (0.5,), mode="verify", skipped_keys="propagate"), "'deferred'"),
    ],
)
def test_exits_the_model_cannot_serve_are_refused(
    segments: Segments, requests: list[TextRequest], exits: TokenExits, message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        generate(segments, requests, exits)


def test_a_confidence_that_is_not_finite_sends_the_token_deeper(
    segments: Segments, requests: list[TextRequest], full: list[tuple[int, ...]]
) -> None:
    width = segments.loaded.width
    broken = TokenHead(torch.full((width, width), torch.nan), torch.zeros(width))
    answers = generate(segments, requests, TokenExits((2,), (0.0,), heads={2: broken}))
    assert [answer.tokens for answer in answers] == full
    assert all("layer 2 is not finite" in (answer.fault or "") for answer in answers)


@pytest.fixture
def broken_below(save_model: Callable[[int], Path]) -> Iterator[Segments]:
    """A model whose fifth layer gives NaN for prompts that hold token 9."""
    segments = Segments(load_model(save_model(0)))

    def spoil(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        marked = (args[0] - mark).abs().amax(-1, keepdim=True) < 1e-6
        return (torch.where(marked, torch.nan, args[0]),)

    mark = segments.loaded.model.get_input_embeddings().weight[9]
    handle = segments.loaded.layers[0].register_forward_pre_hook(spoil)
    yield segments
    handle.remove()


def test_scores_of_the_full_model_that_are_not_finite_end_only_their_own_answer(
    broken_below: Segments,
) -> None:
    requests = [TextRequest((5, 6, 7), 6), TextRequest((5, 9, 7), 6)]
    fine, broken = generate(broken_below, requests)
    assert fine.tokens == generate(broken_below, requests[:1])[0].tokens
    assert fine.fault is None
    assert broken.stop_reason == "fault"
    assert broken.fault == "the full model's scores are not finite"
    assert broken.tokens == () and broken.text == ""


def test_an_answer_whose_full_scores_are_not_finite_cannot_be_compared(
    broken_below: Segments,
) -> None:
    answer = generate(broken_below, [TextRequest((5, 6, 7), 6)])[0]
    with pytest.raises(GenerationError, match="not finite"):
        shadow(broken_below, [TextRequest((5, 9, 7), 6)], [answer])
