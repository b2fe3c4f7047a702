"""What cannot be served is refused with what was wrong, where, and what to do."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BloomConfig

from rollout.engine.calibration import TooFewExamples, calibrate
from rollout.engine.choice import RowPlan, answer_batch
from rollout.engine.exactness import check_exactness
from rollout.engine.full_depth import full_depth_answer
from rollout.engine.loading import LoadedModel, ModelRefused, load_model
from rollout.engine.segments import Segments
from rollout.engine.task import BadRequest, ChoiceTask, TaskError, compile_task
from rollout.values import ExitPolicy
from tests.models import EAGER, random_texts


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    BloomConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelRefused, match="'bloom' is not one the engine runs.*llama"):
        load_model(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="no config.json there"):
        load_model(tmp_path / "nowhere")


def test_pickled_weights_are_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(model_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match="safetensors"):
        load_model(folder)


def test_a_broken_weights_file_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(model_folder, folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        load_model(folder)


def test_a_broken_configuration_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(model_folder, folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelRefused, match="not readable as JSON"):
        load_model(folder)


def test_an_unknown_device_or_dtype_is_refused(model_folder: Path) -> None:
    with pytest.raises(ModelRefused, match="model.device 'gpu7' cannot be used"):
        load_model(model_folder, device="gpu7")
    with pytest.raises(ModelRefused, match="model.dtype 'int3' is not one of auto, float32"):
        load_model(model_folder, dtype="int3")


def test_the_revision_follows_the_weights(save_model: Callable[[int], Path]) -> None:
    first, again, other = (load_model(save_model(seed)).revision for seed in (0, 0, 1))
    assert first == again != other


def test_a_model_whose_loop_differs_from_its_own_forward_is_refused(model_folder: Path) -> None:
    loaded = load_model(model_folder)

    class ScaledLogits(type(loaded.model)):  # type: ignore[misc]
        """A family whose forward does something with the logits that the loop does not know."""

        def forward(self, *args: object, **kwargs: object) -> object:
            output = super().forward(*args, **kwargs)
            output.logits = 30.0 * torch.tanh(output.logits / 30.0)
            return output

    loaded.model.__class__ = ScaledLogits
    with pytest.raises(ModelRefused, match="differs from the model's own forward by"):
        check_exactness(Segments(loaded))


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ("model.layers.3.mlp.up_proj", "not finite after layer 4"),
        ("model.embed_tokens", "not finite in the embedding"),
        ("model.norm", "its final norm or its head is damaged"),
    ],
)
def test_a_model_with_nan_in_a_part_is_refused_with_the_place(
    save_model: Callable[[int], Path], part: str, where: str
) -> None:
    loaded = load_model(save_model(0))
    weight = loaded.model.get_submodule(part).weight
    assert isinstance(weight, torch.Tensor)
    weight.fill_(float("nan"))
    with pytest.raises(ModelRefused, match=where):
        check_exactness(Segments(loaded))


def test_a_model_whose_rows_depend_on_their_batch_is_refused(
    save_model: Callable[[int], Path],
) -> None:
    loaded = load_model(save_model(0))
    # As one scale for a whole batch does in dynamic quantisation.
    hook = loaded.layers[4].mlp.register_forward_hook(
        lambda _module, _args, output: output * (1 + 0.01 * output.shape[0])
    )
    try:
        with pytest.raises(ModelRefused, match="depend on who shares a batch"):
            check_exactness(Segments(loaded))
    finally:
        hook.remove()


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_an_empty_text_is_refused(task: ChoiceTask, text: str) -> None:
    with pytest.raises(BadRequest, match="the text is empty"):
        task.encode(text)


def test_a_text_longer_than_the_context_is_refused_with_both_lengths(task: ChoiceTask) -> None:
    with pytest.raises(BadRequest, match=r"has \d+ tokens but the model's context takes 64"):
        task.encode("refund " * 80)


def test_any_text_becomes_tokens(task: ChoiceTask) -> None:
    for text in (
        "\x00",
        "日本語",
        "{{ text }}",
        "{% raw %}",
        "🙂",
        "\ud800".encode("utf-8", "replace").decode(),
    ):
        assert task.encode(text)[0]


def test_a_template_without_text_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(TaskError, match="never uses {{ text }}"):
        compile_task(loaded, ("refund", "cancel"), "intent :")


@pytest.mark.parametrize("template", ["{{ text", "{{ txt }}", "{{ text.__class__.__mro__ }}"])
def test_a_broken_template_is_refused(loaded: LoadedModel, template: str) -> None:
    with pytest.raises(TaskError, match="template"):
        compile_task(loaded, ("refund", "cancel"), template)


def test_labels_that_begin_alike_in_tokens_are_refused(loaded: LoadedModel) -> None:
    with pytest.raises(TaskError, match="the model cannot tell them apart"):
        compile_task(loaded, ("refund", "refund my invoice"), "mail : {{ text }}\nintent :")


def test_too_few_texts_are_refused(segments: Segments, task: ChoiceTask) -> None:
    with pytest.raises(TooFewExamples, match="5 texts are too few"):
        calibrate(segments, task, ["refund"] * 5)


def test_an_empty_batch_is_refused(segments: Segments) -> None:
    for nothing in ([], [[5], []]):
        with pytest.raises(ValueError, match="at least one prompt"):
            segments.start(nothing)


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(segments: Segments) -> None:
    with pytest.raises(BadRequest, match="65 tokens but the model's context takes 64"):
        segments.start([[5], [5] * 65])
    prefix = segments.cache_prefix([5] * 60)
    with pytest.raises(BadRequest, match="65 tokens but the model's context takes 64"):
        segments.start([[5] * 5], prefix=prefix)


def test_a_token_outside_the_vocabulary_is_refused_with_its_row(segments: Segments) -> None:
    for token in (-1, segments.loaded.vocabulary):
        with pytest.raises(BadRequest, match="prompt 1 has a token outside the vocabulary"):
            segments.start([[5], [6, token]])


def test_a_label_that_another_begins_with_is_told_apart_by_the_end_token(
    loaded: LoadedModel, segments: Segments
) -> None:
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.add_special_tokens({"eos_token": "<pad>"})
    ending = dataclasses.replace(loaded, tokenizer=tokenizer)
    task = compile_task(
        ending, ("refund", "refund my invoice", "cancel"), "mail : {{ text }}\nintent :"
    )
    short, long, _ = task.label_tokens
    assert short[-1] == tokenizer.eos_token_id and long[: len(short) - 1] == short[:-1]
    prompt = task.encode("please cancel the plan")
    state = segments.advance(segments.start(prompt), 6)
    scores = task.scores(loaded.norm(state.last_hidden))[0]
    for label, tokens in enumerate(task.label_tokens):
        with torch.inference_mode():
            opinion = loaded.model(torch.tensor([[*prompt[0], *tokens]])).logits[0].log_softmax(-1)
        start = len(prompt[0]) - 1
        expected = sum(float(opinion[start + place, token]) for place, token in enumerate(tokens))
        assert float(scores[label]) == pytest.approx(expected, abs=1e-4)


def test_labels_that_share_their_first_token_are_scored_apart(
    loaded: LoadedModel, segments: Segments
) -> None:
    task = compile_task(
        loaded, ("refund invoice", "refund payment", "cancel"), "mail : {{ text }}\nintent :"
    )
    assert task.label_tokens[0][0] == task.label_tokens[1][0]
    prompts = [task.encode(text) for text in ("refund my plan", "the next march")]
    results = answer_batch(segments, task, prompts, [RowPlan()] * 2, None, None)
    for prompt, result in zip(prompts, results, strict=True):
        assert result.answer is not None
        assert result.answer.label == full_depth_answer(task, prompt)


def test_nan_in_an_early_layer_of_one_row_harms_no_other(
    segments: Segments, task: ChoiceTask
) -> None:
    texts = ["refund my invoice", "cancel the old plan please now", "next payment"]
    fitted = calibrate(segments, task, random_texts(40), exit_layers=(2, 4), target=0.98)
    policy = ExitPolicy("b", 1, (2, 4), (0.999, 0.999), "", fitted.heads.criterion, "", 6)

    def spoil(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(0, torch.tensor([1]), torch.nan)

    hook = segments.loaded.layers[0].register_forward_hook(spoil)
    try:
        results = answer_batch(
            segments, task, [task.encode(text) for text in texts], [RowPlan(True, True)] * 3,
            policy, fitted.heads, costs=EAGER,
        )  # fmt: skip
    finally:
        hook.remove()
    assert results[1].answer is None
    assert results[1].fault == "the full model's label scores are not finite"
    for place in (0, 2):
        result = results[place]
        assert result.answer is not None and result.fault is None and result.trace is not None
        assert result.trace.full_answer == full_depth_answer(task, task.encode(texts[place]))


def test_an_empty_batch_of_requests_has_no_results(segments: Segments, task: ChoiceTask) -> None:
    assert answer_batch(segments, task, [], [], None, None) == []
