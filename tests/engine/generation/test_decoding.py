"""Decoding with early exits: full depth is transformers', and nobody depends on batch mates."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from rollout.engine.generation import Decoding, TextRequest, TokenExits, generate, shadow
from rollout.engine.generation.lanes import Window
from rollout.engine.generation.passes import Passes, Work
from rollout.engine.loading import LoadedModel, load_model
from rollout.engine.segments import Segments
from tests import models
from tests.engine.generation.conftest import encode, transformers_answers

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    "qwen3": {"head_dim": 8},
    "gemma2": {"sliding_window": 5, "head_dim": 8},
    "gemma3_text": {"sliding_window": 5, "head_dim": 8},
    "gpt2": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 16},
    "phi": {},
}
KINDS = ("deferred", "propagate")
thresholds = st.tuples(*[st.floats(0, 0.6)] * 2)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Segments:
    folder = tmp_path_factory.mktemp(request.param)
    models.save_model(folder, 0, request.param, **FAMILIES[request.param])
    return Segments(load_model(folder))


def requests_of(loaded: LoadedModel) -> list[TextRequest]:
    return [
        TextRequest(encode(loaded, text)[: 4 + 3 * number], max_tokens=8 + 2 * number)
        for number, text in enumerate(models.random_texts(4, seed=3))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_threshold_of_one_gives_the_tokens_of_transformers(family: Segments, kind: str) -> None:
    requests = requests_of(family.loaded)
    want = transformers_answers(family, requests)
    assert [g.tokens for g in generate(family, requests)] == want
    never = TokenExits((2, 4), (1.0, 1.0), skipped_keys=kind)
    answers = generate(family, requests, never)
    assert [g.tokens for g in answers] == want
    assert all(set(g.exit_layers) == {None} and g.work.probes == 0 for g in answers)


def test_verified_drafts_give_the_tokens_of_every_family(family: Segments) -> None:
    requests = requests_of(family.loaded)
    exits = TokenExits((2, 4), (0.02, 0.05), mode="verify", draft_tokens=3)
    answers = generate(family, requests, exits)
    assert [g.tokens for g in answers] == transformers_answers(family, requests)
    assert sum(g.drafted for g in answers) > 10


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(levels=thresholds, chosen=st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True))
def test_an_answer_does_not_depend_on_its_batch_mates(
    segments: Segments,
    requests: list[TextRequest],
    kind: str,
    levels: tuple[float, float],
    chosen: list[int],
) -> None:
    exits = TokenExits((2, 4), levels, skipped_keys=kind)
    together = generate(segments, [requests[number] for number in chosen], exits)
    for number, answer in zip(chosen, together, strict=True):
        alone = generate(segments, [requests[number]], exits)[0]
        assert answer.tokens == alone.tokens
        assert answer.exit_layers == alone.exit_layers
        assert answer.work == alone.work
        for ours, theirs in zip(answer.confidences, alone.confidences, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or ours == pytest.approx(theirs, abs=1e-5)


@settings(max_examples=8, deadline=None)
@given(levels=thresholds)
def test_deferred_catch_up_leaves_the_full_models_cache(
    segments: Segments, requests: list[TextRequest], levels: tuple[float, float]
) -> None:
    decoding = Decoding(segments, requests, TokenExits((2, 4), levels))
    passes = decoding._passes
    for _ in range(6):
        decoding.step()
        _compare_cache(segments, passes)
    rows = range(len(requests))
    # The newest token has not been run at all: segment 0 comes first.
    for segment in range(3):
        passes.run(rows, segment, [Work() for _ in rows])
    assert all(count == passes.lanes.columns for done in passes.lanes.done for count in done)
    _compare_cache(segments, passes)


def _compare_cache(segments: Segments, passes: Passes) -> None:
    """Every completed key and value against transformers' own cache of the same tokens."""
    lanes = passes.lanes
    for row in range(lanes.rows):
        start = lanes.starts[row]
        lanes.window = Window(torch.tensor([row]), start, lanes.columns)
        cache = DynamicCache()
        with torch.inference_mode():
            segments.loaded.model(lanes.read("tokens", 0), past_key_values=cache)
        for segment, (first, last) in enumerate(passes.layers):
            done = lanes.done[segment][row] - start
            for layer in range(first, last if done > 0 else first):
                for kind in ("keys", "values"):
                    ours = lanes.read(kind, layer)[0, :done].transpose(0, 1)
                    theirs = getattr(cache.layers[layer], kind)[0, :, :done]
                    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_propagated_keys_are_projected_from_the_exits_hidden_state(
    segments: Segments, requests: list[TextRequest]
) -> None:
    loaded = segments.loaded
    passes = Passes(segments, (2, loaded.depth), [requests[0].prompt], "propagate", False)
    work = [Work()]
    for segment in range(2):
        passes.run([0], segment, work)
    prompt = len(requests[0].prompt)
    passes.append([3])
    exited = passes.run([0], 0, work)[0, -1]
    passes.append([4])
    for segment in range(2):
        passes.run([0], segment, work)
    passes.lanes.window = Window(None, prompt, prompt + 1)
    for layer in range(2, loaded.depth):
        attention = loaded.layers[layer].self_attn
        with torch.inference_mode():
            value = attention.v_proj(loaded.layers[layer].input_layernorm(exited))
        found = passes.lanes.read("values", layer)[0, 0].flatten()
        torch.testing.assert_close(found, value, atol=1e-5, rtol=1e-5)
    assert work[0].filled_layers == loaded.depth - 2


@settings(max_examples=8, deadline=None)
@given(levels=thresholds)
def test_a_shadow_by_continuation_says_what_a_pass_from_scratch_says_and_costs_the_skipped_layers(
    segments: Segments, requests: list[TextRequest], levels: tuple[float, float]
) -> None:
    shadowed = [replace(request, shadow=True) for request in requests]
    answers = generate(segments, shadowed, TokenExits((2, 4), levels))
    assert [a.agreement for a in answers] == shadow(segments, shadowed, answers)
    for answer in answers:
        ran = answer.work.layers_run + answer.work.prompt_layers + answer.work.shadow_layers
        columns = answer.prompt_tokens + len(answer.tokens) - 1
        assert ran == segments.loaded.depth * columns


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_exit_save_their_layers(
    segments: Segments, requests: list[TextRequest], kind: str
) -> None:
    answers = generate(segments, requests, TokenExits((2,), (0.0,), skipped_keys=kind))
    for answer in answers:
        assert set(answer.exit_layers) == {2}
        assert answer.work.layers_run == 2 * len(answer.tokens)
        assert answer.work.probes == len(answer.tokens)
        assert answer.work.prompt_layers == 2 * (answer.prompt_tokens - 1)


def test_an_end_token_ends_the_answer(
    segments: Segments,
    requests: list[TextRequest],
    full: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = full[0][3]
    monkeypatch.setattr(segments.loaded.model.generation_config, "eos_token_id", [token])
    answer = generate(segments, requests[:1])[0]
    assert answer.tokens == full[0][: full[0].index(token) + 1]
    assert answer.stop_reason == "end_of_text"


def test_an_answer_is_plain_json(segments: Segments, requests: list[TextRequest]) -> None:
    shadowed = [replace(request, shadow=True) for request in requests]
    answer = generate(segments, shadowed, TokenExits((2, 4), (0.1, 0.2)))[0]
    found = json.loads(json.dumps(answer.to_json()))
    assert found["tokens"] == list(answer.tokens)
    assert found["work"] == asdict(answer.work)
    assert len(found["exit_layers"]) == len(found["confidences"]) == len(answer.tokens)
    assert found["agreement"]["by_token"] == list(answer.agreement.by_token)


def test_a_long_answer_outgrows_its_first_buffers(save_model: Callable[[int], Path]) -> None:
    segments = Segments(load_model(save_model(5)))
    requests = [TextRequest((5, 6, 7), 61), TextRequest((8,), 40)]
    answers = generate(segments, requests, TokenExits((2,), (1.0,)))
    assert [a.tokens for a in answers] == transformers_answers(segments, requests)
