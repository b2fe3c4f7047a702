"""Answers layer by layer and without a layer equal those of a model that is built that way."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import nn

from rollout.engine.calibration import calibrate, trace
from rollout.engine.distil import FittedHead
from rollout.engine.full_depth import full_depth_answer
from rollout.engine.layers import answers_by_layer, fit_label_heads, without_each_layer
from rollout.engine.loading import LoadedModel
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask, compile_task
from rollout.values import RolloutError
from tests.models import LABELS, TEMPLATE

ROWS = 40
"""More than a batch."""


def scores_with(loaded: LoadedModel, layers: Iterable[int], text: str) -> torch.Tensor:
    """Label scores by transformers alone, of a copy that has only these layers."""
    model = copy.deepcopy(loaded.model)
    kept = [model.base_model.layers[index] for index in layers]
    model.base_model.layers = nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    reduced = LoadedModel(model, loaded.tokenizer, "")
    task = compile_task(reduced, LABELS, TEMPLATE)
    with torch.inference_mode():
        hidden = model.base_model(
            torch.tensor(task.encode(text)), use_cache=False
        ).last_hidden_state
        return task.scores(hidden[:, -1])[0]


def test_the_last_column_is_the_model_s_own_answer(
    segments: Segments, task: ChoiceTask, texts: list[str]
) -> None:
    prompts = [task.encode(text) for text in texts[:ROWS]]
    found, _ = answers_by_layer(segments, task, prompts)
    assert found.shape == (ROWS, 6)
    assert found[:, -1].tolist() == [full_depth_answer(task, prompt) for prompt in prompts]


@pytest.mark.parametrize("layer", [1, 3, 5])
def test_the_lens_answers_as_a_model_that_ends_at_that_layer(
    segments: Segments, task: ChoiceTask, texts: list[str], loaded: LoadedModel, layer: int
) -> None:
    found, _ = answers_by_layer(segments, task, [task.encode(text) for text in texts[:ROWS]])
    shallow = [int(scores_with(loaded, range(layer), text).argmax()) for text in texts[:6]]
    assert found[:6, layer - 1].tolist() == shallow


def test_label_heads_answer_as_the_exits_of_a_policy_do(
    segments: Segments, task: ChoiceTask, texts: list[str]
) -> None:
    served = calibrate(segments, task, texts[:100], exit_layers=(2, 4), head="label_head").heads
    heads = {
        layer: FittedHead(head.weight, head.bias, head.weight, head.bias)
        for layer, head in served.heads.items()
    }
    prompts = [task.encode(text) for text in texts[100 : 100 + ROWS]]
    _, found = answers_by_layer(segments, task, prompts, heads)
    traces = trace(segments, task, prompts, served)
    assert found[:, 0].tolist() == [one.exits[0].answer for one in traces]
    assert found[:, 1].tolist() == [one.exits[1].answer for one in traces]
    assert found[:, 2].tolist() == [one.full_answer for one in traces]


def test_label_heads_know_the_full_answer_better_than_the_lens_where_they_learned(
    segments: Segments, task: ChoiceTask, texts: list[str]
) -> None:
    prompts = [task.encode(text) for text in texts[:200]]
    heads = fit_label_heads(segments, task, prompts, (1, 2, 3))
    by_lens, by_heads = answers_by_layer(segments, task, prompts, heads)
    lens = (by_lens[:, :3] == by_lens[:, -1:]).mean(axis=0)
    calibrated = (by_heads[:, :3] == by_heads[:, -1:]).mean(axis=0)
    assert (calibrated > lens).all()


@pytest.mark.parametrize("layer", [1, 4, 6])
def test_leaving_a_layer_out_answers_as_a_model_without_it(
    segments: Segments, task: ChoiceTask, texts: list[str], loaded: LoadedModel, layer: int
) -> None:
    agrees, divergence = without_each_layer(
        segments, task, [task.encode(text) for text in texts[:ROWS]]
    )
    assert agrees.shape == divergence.shape == (ROWS, 6)
    others = [index for index in range(6) if index != layer - 1]
    for row, text in enumerate(texts[:6]):
        full, without = scores_with(loaded, range(6), text), scores_with(loaded, others, text)
        assert agrees[row, layer - 1] == (full.argmax() == without.argmax())
        gap = full.log_softmax(-1) - without.log_softmax(-1)
        expected = float((full.softmax(-1) * gap).sum())
        assert divergence[row, layer - 1] == pytest.approx(expected, abs=1e-4)


def test_a_layer_that_adds_nothing_can_be_left_out_and_others_change_answers(
    loaded: LoadedModel, texts: list[str]
) -> None:
    model = copy.deepcopy(loaded.model)
    idle = model.base_model.layers[2]
    for projection in (idle.self_attn.o_proj, idle.mlp.down_proj):
        projection.weight.zero_()
    changed = LoadedModel(model, loaded.tokenizer, "")
    task = compile_task(changed, LABELS, TEMPLATE)
    agrees, divergence = without_each_layer(
        Segments(changed), task, [task.encode(text) for text in texts[:ROWS]]
    )
    assert agrees[:, 2].all()
    assert np.abs(divergence[:, 2]).max() < 1e-6
    assert not agrees.all()
    assert (divergence[:, [0, 1, 3, 4, 5]].mean(axis=0) > 1e-3).all()


def test_labels_of_several_tokens_are_answered_layer_by_layer_too(
    segments: Segments, loaded: LoadedModel, texts: list[str]
) -> None:
    task = compile_task(loaded, ("refund my plan", "cancel my plan", "payment"), TEMPLATE)
    assert task.rows_per_request > 1
    prompts = [task.encode(text) for text in texts[:ROWS]]
    found, _ = answers_by_layer(segments, task, prompts)
    assert found[:, -1].tolist() == [full_depth_answer(task, prompt) for prompt in prompts]
    assert without_each_layer(segments, task, prompts)[0].shape == (ROWS, 6)


def test_scores_that_are_not_finite_are_refused(loaded: LoadedModel, texts: list[str]) -> None:
    model = copy.deepcopy(loaded.model)
    model.base_model.layers[4].mlp.down_proj.weight.fill_(float("nan"))
    broken = LoadedModel(model, loaded.tokenizer, "")
    task = compile_task(broken, LABELS, TEMPLATE)
    prompts = [task.encode(text) for text in texts[:4]]
    for run in (answers_by_layer, without_each_layer):
        with pytest.raises(RolloutError, match="not finite"):
            run(Segments(broken), task, prompts)
