"""The layer loop is the model's own forward, however rows share, leave or continue a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache

from rollout.engine.exactness import check_exactness, relative_difference
from rollout.engine.loading import MAX_DIFFERENCE, LoadedModel, load_model
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask, compile_task


@torch.inference_mode()
def transformers_scores(task: ChoiceTask, texts: Sequence[str]) -> Tensor:
    """Label logits by transformers alone, one padded batch, [texts, labels]."""
    tokenizer = task.loaded.tokenizer
    prompts = [task.template.render(text=text) for text in texts]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    logits = task.loaded.model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).logits[:, -1]
    return logits[:, [tokens[0] for tokens in task.label_tokens]]


def our_scores(segments: Segments, task: ChoiceTask, texts: Sequence[str]) -> Tensor:
    prompts = [branch for text in texts for branch in task.encode(text)]
    state = segments.advance(segments.start(prompts), segments.loaded.depth)
    return task.scores(segments.loaded.norm(state.last_hidden))


@pytest.mark.parametrize("rows", [1, 8])
def test_full_depth_equals_transformers_own_forward(
    segments: Segments, task: ChoiceTask, texts: list[str], rows: int
) -> None:
    ours = our_scores(segments, task, texts[:rows])
    theirs = transformers_scores(task, texts[:rows])
    assert (ours - theirs).abs().max() <= 1e-5
    top = theirs.topk(2).values
    decided = top[:, 0] - top[:, 1] > 2e-5
    assert torch.equal(ours.argmax(-1)[decided], theirs.argmax(-1)[decided])
    assert decided.any()


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_row_does_not_depend_on_the_rows_that_share_its_batch(
    segments: Segments, data: st.DataObject
) -> None:
    prompt = st.lists(st.integers(1, segments.loaded.vocabulary - 1), min_size=1, max_size=20)
    prompts = data.draw(st.lists(prompt, min_size=2, max_size=6))
    leave_at = data.draw(st.integers(0, 5))
    stay = data.draw(st.permutations(range(len(prompts))).map(lambda order: order[:-1]))
    paused = segments.advance(segments.start(prompts), leave_at)
    left = segments.finish(segments.advance(segments.compact(paused, stay), 6))
    together = segments.finish(segments.advance(paused, 6))
    for place, row in enumerate(stay):
        alone = segments.finish(segments.advance(segments.start([prompts[row]]), 6))[0]
        assert relative_difference(together[row], alone) <= 1e-5
        assert relative_difference(left[place], alone) <= 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_number_format_of_the_processor_passes_the_check(
    model_folder: Path, dtype: str
) -> None:
    segments = Segments(load_model(model_folder, dtype=dtype))
    assert segments.start([[5, 6]]).hidden.dtype == getattr(torch, dtype)
    assert check_exactness(segments) <= MAX_DIFFERENCE[getattr(torch, dtype)]


def test_nothing_runs_on_before_the_last_layer_is_finished(segments: Segments) -> None:
    state = segments.advance(segments.start([[5, 6]]), 4)
    with pytest.raises(ValueError, match="4 of 6 layers are run"):
        segments.finish(state)
    with pytest.raises(ValueError, match="cannot advance from layer 4 to 3"):
        segments.advance(state, 3)


def test_a_cache_stands_alone(segments: Segments) -> None:
    prefix = segments.cache_prefix([5, 6])
    with pytest.raises(ValueError, match="a cache must be empty, and stands alone"):
        segments.start([[7]], prefix=prefix, cache=DynamicCache())
    used = DynamicCache()
    state = segments.advance(segments.start([[5, 6]], cache=used), 6)
    with pytest.raises(ValueError, match="a cache must be empty"):
        segments.start([[7]], cache=used)
    with pytest.raises(ValueError, match="cannot be split"):
        segments.split(state, [0])


def test_a_state_can_be_compacted_and_continued(
    segments: Segments, task: ChoiceTask, texts: list[str]
) -> None:
    prompts = [task.encode(text)[0] for text in texts[:6]]
    whole = segments.advance(segments.start(prompts), 6).last_hidden
    paused = segments.advance(segments.start(prompts), 2)
    continued = segments.advance(paused, 6).last_hidden
    assert torch.equal(continued, whole)
    compacted = segments.advance(segments.compact(paused, [5, 1]), 6).last_hidden
    assert (compacted - whole[[5, 1]]).abs().max() <= 1e-5


def test_the_check_at_load_measures_no_difference(segments: Segments) -> None:
    assert check_exactness(segments) <= 1e-5


def test_labels_of_several_tokens_are_scored_by_their_log_probability(
    loaded: LoadedModel, segments: Segments, texts: list[str]
) -> None:
    labels = ("refund", "invoice and cancel", "old plan")
    task = compile_task(loaded, labels, "mail : {{ text }}\nintent :")
    assert task.rows_per_request > 1
    ours = our_scores(segments, task, texts[:4])
    for row, text in enumerate(texts[:4]):
        prompt = loaded.tokenizer(task.template.render(text=text))["input_ids"]
        for column, tokens in enumerate(task.label_tokens):
            whole = torch.tensor([[*prompt, *tokens]])
            with torch.inference_mode():
                opinion = loaded.model(whole).logits[0].log_softmax(-1)
            expected = sum(
                float(opinion[len(prompt) - 1 + place, token]) for place, token in enumerate(tokens)
            )
            assert float(ours[row, column]) == pytest.approx(expected, abs=1e-4)


def test_layers_after_the_target_are_not_computed(
    segments: Segments, task: ChoiceTask, texts: list[str]
) -> None:
    ran: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, layer in enumerate(segments.loaded.layers, start=1)
    ]
    try:
        segments.advance(segments.start(task.encode(texts[0])), 3)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == [1, 2, 3]
