"""Every family that is taken runs layer by layer exactly as its own forward does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from rollout.engine.calibration import ask_every_exit, calibrate
from rollout.engine.choice import RowPlan, answer_batch
from rollout.engine.exactness import check_exactness, relative_difference
from rollout.engine.families import FAMILIES
from rollout.engine.full_depth import full_depth_answer
from rollout.engine.heads_file import load_heads
from rollout.engine.loading import load_model
from rollout.engine.segments import Segments
from rollout.engine.task import compile_task
from tests.models import LABELS, OF_ITS_OWN, TEMPLATE, random_texts, save_model

DEPTH = 6
PROMPTS = [
    [5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    [5, 6, 17],
    [5, 6, 21, 22, 30, 31, 32],
    [5, 6, 40, 41, 42, 43, 44, 45, 46],
]
ROUNDING = 1e-5
"""Of the largest logit, float32: what another shape of the same product may change."""


@pytest.fixture(scope="module", params=sorted(OF_ITS_OWN))
def segments(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Segments]:
    family = request.param
    folder = save_model(tmp_path_factory.mktemp(family), 1, family, **OF_ITS_OWN[family])
    yield Segments(load_model(folder))


@torch.inference_mode()
def alone(segments: Segments, prompts: list[list[int]]) -> Tensor:
    """Last-token logits by transformers alone, one prompt at a time, nothing padded."""
    model = segments.loaded.model
    return torch.cat([model(torch.tensor([prompt])).logits[:, -1] for prompt in prompts])


def whole(segments: Segments, prompts: list[list[int]]) -> Tensor:
    return segments.finish(segments.advance(segments.start(prompts), DEPTH))


def test_every_family_of_the_adapter_is_tested() -> None:
    assert set(OF_ITS_OWN) == set(FAMILIES)


def test_the_loop_equals_the_familys_own_forward(segments: Segments) -> None:
    assert relative_difference(whole(segments, PROMPTS), alone(segments, PROMPTS)) <= ROUNDING
    assert check_exactness(segments) <= ROUNDING


@torch.inference_mode()
def test_hidden_states_of_a_padded_batch_are_bit_identical(segments: Segments) -> None:
    state = segments.advance(segments.start(PROMPTS), DEPTH)
    lengths = [len(prompt) for prompt in PROMPTS]
    mask, positions = segments.mask(lengths)
    output = segments.loaded.base(
        input_ids=segments.padded(PROMPTS, lengths),
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
    )
    ours = segments.final_norm(state.hidden)
    for row, length in enumerate(lengths):
        assert torch.equal(ours[row, -length:], output.last_hidden_state[row, -length:])


def test_a_shape_seen_before_starts_bit_identically(segments: Segments) -> None:
    first, second = [[5, 6, 7], [8, 9, 10]], [[11, 12, 13], [5, 6, 40]]
    fresh = Segments(segments.loaded)
    whole(segments, first)
    assert torch.equal(whole(segments, second), whole(fresh, second))
    assert relative_difference(whole(segments, second), alone(segments, second)) <= ROUNDING


def test_a_paused_batch_continues_bit_identically(segments: Segments) -> None:
    state = segments.start(PROMPTS)
    for layer in (1, 4, 4, 5, DEPTH):
        state = segments.advance(state, layer)
    assert torch.equal(segments.finish(state), whole(segments, PROMPTS))


@pytest.mark.parametrize("keep", [[1, 2], [2], [3, 0], [0, 1, 3]])
@pytest.mark.parametrize("layer", [0, 2, 5])
def test_rows_that_are_left_go_on_as_before(
    segments: Segments, keep: list[int], layer: int
) -> None:
    paused = segments.advance(segments.start(PROMPTS), layer)
    left = segments.compact(paused, keep)
    assert left.rows == len(keep)
    ours = segments.finish(segments.advance(left, DEPTH))
    assert relative_difference(ours, whole(segments, PROMPTS)[keep]) <= ROUNDING


def test_leading_columns_that_no_row_needs_go(segments: Segments) -> None:
    paused = segments.advance(segments.start(PROMPTS), 2)
    left = segments.compact(paused, [1, 2])
    assert left.hidden.shape[1] == 7
    # At the last layer the columns saved are worth less than preparing the batch again.
    paused = segments.advance(paused, 5)
    assert segments.compact(paused, [1, 2]).hidden.shape[1] == 10


def test_a_batch_can_be_split(segments: Segments) -> None:
    state = segments.advance(segments.start(PROMPTS), 3)
    first, others = segments.split(state, [2, 0])
    expected = whole(segments, PROMPTS)
    for part, rows in ((first, [2, 0]), (others, [1, 3])):
        ours = segments.finish(segments.advance(part, DEPTH))
        assert relative_difference(ours, expected[rows]) <= ROUNDING


@pytest.mark.parametrize("length", [1, 2])
def test_a_cached_prefix_changes_no_answer(segments: Segments, length: int) -> None:
    prefix = segments.cache_prefix(PROMPTS[0][:length])
    suffixes = [prompt[length:] for prompt in PROMPTS]
    expected = whole(segments, PROMPTS)
    state = segments.advance(segments.start(suffixes, prefix=prefix), 2)
    assert state.hidden.shape[1] == 10 - length
    ours = segments.finish(segments.advance(state, DEPTH))
    assert relative_difference(ours, expected) <= ROUNDING
    for keep in ([2, 1], [1, 3, 0]):
        ours = segments.finish(segments.advance(segments.compact(state, keep), DEPTH))
        assert relative_difference(ours, expected[keep]) <= ROUNDING


def test_suffixes_of_one_length_share_a_prefix_unpadded(segments: Segments) -> None:
    prompts = [prompt[:3] for prompt in PROMPTS]
    prefix = segments.cache_prefix(prompts[0][:2])
    state = segments.start([prompt[2:] for prompt in prompts], prefix=prefix)
    ours = segments.finish(segments.advance(state, DEPTH))
    assert relative_difference(ours, alone(segments, prompts)) <= ROUNDING


def test_a_cache_is_filled_as_the_model_fills_it(segments: Segments) -> None:
    prompts = [prompt[:3] for prompt in PROMPTS]
    cache = DynamicCache()
    state = segments.advance(segments.start(prompts, cache=cache), 2)
    assert len(cache.layers) == 2
    segments.advance(segments.compact(state, [3, 1]), DEPTH)
    with torch.inference_mode():
        theirs = DynamicCache()
        segments.loaded.model(torch.tensor(prompts)[[3, 1]], past_key_values=theirs, use_cache=True)
    for ours_layer, theirs_layer in zip(cache.layers, theirs.layers, strict=True):
        assert relative_difference(ours_layer.keys, theirs_layer.keys) <= ROUNDING
        assert relative_difference(ours_layer.values, theirs_layer.values) <= ROUNDING


def test_label_scores_are_the_models_own_logits(segments: Segments) -> None:
    loaded = segments.loaded
    task = compile_task(loaded, LABELS, TEMPLATE)
    prompts = [task.encode(text)[0] for text in ("refund the plan", "cancel march")]
    state = segments.advance(segments.start(prompts), DEPTH)
    ours = task.scores(segments.final_norm(state.last_hidden))
    columns = [tokens[0] for tokens in task.label_tokens]
    expected = alone(segments, prompts)[:, columns]
    assert relative_difference(ours, expected) <= ROUNDING
    answers = [full_depth_answer(task, [prompt]) for prompt in prompts]
    assert answers == expected.argmax(-1).tolist()
    texts = compile_task(loaded, ("refund", "invoice and cancel"), TEMPLATE)
    branches = texts.encode("old plan")
    state = segments.advance(segments.start(branches), DEPTH)
    ours = texts.scores(segments.final_norm(state.last_hidden))
    opinion = alone(segments, branches).log_softmax(-1)
    long = texts.label_tokens[1]
    summed = sum(opinion[texts.branches.index(long[:i]), t] for i, t in enumerate(long))
    assert float(ours[0, 1]) == pytest.approx(float(summed), abs=1e-4)


@pytest.mark.parametrize("head", ["logit_lens", "tuned_lens", "label_head"])
@pytest.mark.parametrize("family", ["gemma2", "opt"])
def test_heads_read_soft_capped_and_projected_models(
    family: str, head: str, tmp_path: Path
) -> None:
    segments = Segments(load_model(save_model(tmp_path, 1, family, **OF_ITS_OWN[family])))
    task = compile_task(segments.loaded, LABELS, TEMPLATE)
    texts = random_texts(56)
    fitted = calibrate(
        segments, task, texts[:48], exit_layers=(2, 4), criterion="margin", head=head
    )
    digest = fitted.heads.save(tmp_path / "heads")
    heads = load_heads(tmp_path / "heads", digest, task)
    prompts = [task.encode(text) for text in texts[48:]]
    policy = ask_every_exit(heads, DEPTH)
    results = answer_batch(segments, task, prompts, [RowPlan()] * 8, policy, heads)
    answers = [result.answer.label for result in results if result.answer]
    assert answers == [full_depth_answer(task, prompt) for prompt in prompts]
    assert all(result.trace and len(result.trace.exits) == 2 for result in results)


def test_a_model_that_norms_after_each_layer_and_not_at_the_end_is_taken(tmp_path: Path) -> None:
    own = {**OF_ITS_OWN["opt"], "do_layer_norm_before": False, "word_embed_proj_dim": 32}
    segments = Segments(load_model(save_model(tmp_path, 1, "opt", **own)))
    assert check_exactness(segments) <= ROUNDING
    assert relative_difference(whole(segments, PROMPTS), alone(segments, PROMPTS)) <= ROUNDING
