"""Rows leave as they exit, shadows run on, and whatever is uncertain gets full depth."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollout.engine.calibration import Calibration, calibrate, spread_exit_layers
from rollout.engine.calibration import trace as trace_all
from rollout.engine.choice import Answer, RowPlan, answer_batch
from rollout.engine.costs import LoopCosts
from rollout.engine.full_depth import full_depth_answer
from rollout.engine.heads import ExitHead, ExitHeads
from rollout.engine.heads_file import load_heads
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask
from rollout.values import DepthTrace, ExitPolicy, PolicyError, replay
from tests.models import EAGER


@pytest.fixture(scope="module")
def calibration(segments: Segments, task: ChoiceTask, texts: list[str]) -> Calibration:
    return calibrate(segments, task, texts, exit_layers=(1, 3, 5), criterion="learned")


@pytest.fixture(scope="module")
def policy(calibration: Calibration, segments: Segments) -> ExitPolicy:
    """A threshold that some rows reach and some do not."""
    confidences = sorted(trace.exits[1].confidence for trace in calibration.held_out)
    middle = confidences[len(confidences) // 2]
    return ExitPolicy(
        "billing", 1, (1, 3, 5), (middle,) * 3, "", "learned", segments.loaded.revision, 6
    )


def run(
    segments: Segments,
    task: ChoiceTask,
    texts: list[str],
    plan: RowPlan,
    policy: ExitPolicy,
    heads: ExitHeads,
) -> list[tuple[Answer | None, DepthTrace | None, int]]:
    prompts = [task.encode(text) for text in texts]
    results = answer_batch(segments, task, prompts, [plan] * len(texts), policy, heads, costs=EAGER)
    return [(result.answer, result.trace, result.shadow_layers) for result in results]


def test_replaying_a_trace_gives_what_the_policy_answered(
    segments: Segments, task: ChoiceTask, texts: list[str], policy: ExitPolicy,
    calibration: Calibration,
) -> None:  # fmt: skip
    shadowed = run(segments, task, texts, RowPlan(True, True), policy, calibration.heads)
    depths = set()
    for answer, trace, shadow_layers in shadowed:
        assert answer is not None and trace is not None
        again = replay(trace, policy)
        assert (again.answer, again.exit_layer) == (answer.label, answer.exit_layer)
        assert shadow_layers == 6 - answer.layers_run
        depths.add(answer.exit_layer)
    assert len(depths) > 1 and None in depths


def test_a_row_answers_alike_alone_shadowed_and_in_any_company(
    segments: Segments, task: ChoiceTask, texts: list[str], policy: ExitPolicy,
    calibration: Calibration,
) -> None:  # fmt: skip
    chosen = texts[:24]
    together = run(segments, task, chosen, RowPlan(True), policy, calibration.heads)
    shadowed = run(segments, task, chosen, RowPlan(True, True), policy, calibration.heads)
    for text, (answer, _, _), (shadow, _, _) in zip(chosen, together, shadowed, strict=True):
        ((alone, _, _),) = run(segments, task, [text], RowPlan(True), policy, calibration.heads)
        assert answer is not None and alone is not None and shadow is not None
        assert (answer.label, answer.exit_layer) == (alone.label, alone.exit_layer)
        assert (answer.label, answer.exit_layer) == (shadow.label, shadow.exit_layer)


def test_layers_after_the_last_exit_are_not_computed(
    segments: Segments, task: ChoiceTask, texts: list[str], policy: ExitPolicy,
    calibration: Calibration,
) -> None:  # fmt: skip
    easy = dataclasses.replace(policy, thresholds=(0.0, 0.0, 0.0))
    ran: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, layer in enumerate(segments.loaded.layers, start=1)
    ]
    try:
        results = run(segments, task, texts[:4], RowPlan(True), easy, calibration.heads)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == [1]
    assert all(answer is not None and answer.layers_run == 1 for answer, _, _ in results)


def test_rows_that_exit_leave_the_batch(
    segments: Segments, task: ChoiceTask, texts: list[str], policy: ExitPolicy,
    calibration: Calibration,
) -> None:  # fmt: skip
    rows: list[int] = []
    hook = segments.loaded.layers[5].register_forward_hook(
        lambda _module, _args, output: rows.append(output.shape[0])
    )
    try:
        results = run(segments, task, texts[:32], RowPlan(True), policy, calibration.heads)
    finally:
        hook.remove()
    fallbacks = sum(answer is not None and answer.exit_layer is None for answer, _, _ in results)
    assert rows == [fallbacks]
    assert 0 < fallbacks < 32


def test_answers_are_released_before_their_shadows_end(
    segments: Segments, task: ChoiceTask, texts: list[str], policy: ExitPolicy,
    calibration: Calibration,
) -> None:  # fmt: skip
    order: list[str] = []
    hook = segments.loaded.layers[5].register_forward_hook(lambda *_: order.append("last layer"))
    easy = dataclasses.replace(policy, thresholds=(0.0, 0.0, 0.0))
    try:
        answer_batch(
            segments, task, [task.encode(texts[0])], [RowPlan(True, True)], easy,
            calibration.heads, lambda row, answer: order.append(f"answer at {answer.exit_layer}"),
        )  # fmt: skip
    finally:
        hook.remove()
    assert order == ["answer at 1", "last layer"]


def test_a_label_that_is_never_early_gets_full_depth(
    segments: Segments, task: ChoiceTask, texts: list[str], policy: ExitPolicy,
    calibration: Calibration,
) -> None:  # fmt: skip
    easy = dataclasses.replace(policy, thresholds=(0.0,) * 3, never_early=frozenset({0, 1, 2, 3}))
    results = run(segments, task, texts[:8], RowPlan(True), easy, calibration.heads)
    assert all(answer is not None and answer.exit_layer is None for answer, _, _ in results)


def test_a_confidence_that_is_not_finite_does_not_exit(
    segments: Segments, task: ChoiceTask, texts: list[str], policy: ExitPolicy,
    calibration: Calibration,
) -> None:  # fmt: skip
    broken = {
        layer: ExitHead(head.weight, head.bias, torch.full_like(head.calibration, math.nan))
        for layer, head in calibration.heads.heads.items()
    }
    heads = dataclasses.replace(calibration.heads, heads=broken)
    easy = dataclasses.replace(policy, thresholds=(0.0, 0.0, 0.0))
    (result,) = answer_batch(segments, task, [task.encode(texts[0])], [RowPlan(True)], easy, heads)
    assert result.answer is not None and result.answer.exit_layer is None
    assert result.answer.label == full_depth_answer(task, task.encode(texts[0]))
    assert result.fault is not None and "not finite" in result.fault


def test_a_layer_that_yields_nan_gives_no_answer(
    segments: Segments, task: ChoiceTask, texts: list[str]
) -> None:
    hook = segments.loaded.layers[5].register_forward_hook(
        lambda _module, _args, output: output * math.nan
    )
    try:
        (result,) = answer_batch(segments, task, [task.encode(texts[0])], [RowPlan()], None, None)
    finally:
        hook.remove()
    assert result.answer is None
    assert result.fault == "the full model's label scores are not finite"


def test_replay_from_scratch_equals_the_continued_shadow(
    segments: Segments, task: ChoiceTask, texts: list[str], policy: ExitPolicy,
    calibration: Calibration,
) -> None:  # fmt: skip
    for text, (_, trace, _) in zip(
        texts[:20],
        run(segments, task, texts[:20], RowPlan(True, True), policy, calibration.heads),
        strict=True,
    ):
        assert trace is not None
        assert trace.full_answer == full_depth_answer(task, task.encode(text))


def test_labels_of_several_tokens_exit_early_too(segments: Segments, texts: list[str]) -> None:
    from rollout.engine.task import compile_task

    labels = ("refund my invoice", "old plan", "cancel")
    task = compile_task(segments.loaded, labels, "mail : {{ text }}\nintent :")
    assert task.rows_per_request > 1
    fitted = calibrate(segments, task, texts, exit_layers=(2, 4), criterion="margin")
    policy = ExitPolicy("b", 1, (2, 4), (0.0, 0.0), "", "margin", segments.loaded.revision, 6)
    for answer, trace, _ in run(
        segments, task, texts[:5], RowPlan(True, True), policy, fitted.heads
    ):
        assert answer is not None and answer.exit_layer == 2
        assert trace is not None and len(trace.exits) == 2


def test_heads_come_back_as_they_were_saved(
    segments: Segments, task: ChoiceTask, texts: list[str], policy: ExitPolicy,
    calibration: Calibration, tmp_path: Path,
) -> None:  # fmt: skip
    digest = calibration.heads.save(tmp_path)
    heads = load_heads(tmp_path, digest, task)
    before = run(segments, task, texts[:8], RowPlan(True, True), policy, calibration.heads)
    assert run(segments, task, texts[:8], RowPlan(True, True), policy, heads) == before


def test_heads_made_for_another_model_revision_are_refused(
    task: ChoiceTask, calibration: Calibration, tmp_path: Path
) -> None:
    other = dataclasses.replace(calibration.heads, model_revision="f" * 64)
    with pytest.raises(PolicyError, match="model revision ffffffffffff.*rollout calibrate"):
        load_heads(tmp_path, other.save(tmp_path), task)


def test_heads_made_for_other_labels_are_refused(
    task: ChoiceTask, calibration: Calibration, tmp_path: Path
) -> None:
    other = dataclasses.replace(calibration.heads, task_fingerprint="0" * 64)
    with pytest.raises(PolicyError, match="other labels or another template"):
        load_heads(tmp_path, other.save(tmp_path), task)


def test_heads_of_the_wrong_shape_are_refused(
    task: ChoiceTask, calibration: Calibration, tmp_path: Path
) -> None:
    small = ExitHead(torch.zeros(3, 3), torch.zeros(3), torch.zeros(5), torch.zeros(0, 5))
    other = dataclasses.replace(calibration.heads, heads={1: small}, kind="tuned_lens")
    with pytest.raises(PolicyError, match=r"layer 1: weight is \(3, 3\), expected \(32, 32\)"):
        load_heads(tmp_path, other.save(tmp_path), task)


def test_altered_and_missing_heads_are_refused(
    task: ChoiceTask, calibration: Calibration, tmp_path: Path
) -> None:
    digest = calibration.heads.save(tmp_path)
    path = tmp_path / f"{digest}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(PolicyError, match="do not match their content hash"):
        load_heads(tmp_path, digest, task)
    with pytest.raises(PolicyError, match="cannot be read"):
        load_heads(tmp_path, "0" * 64, task)


def test_exit_layers_are_spread_and_never_the_last() -> None:
    for depth in range(2, 81):
        layers = spread_exit_layers(depth)
        assert 1 <= len(layers) <= 8
        assert layers[0] >= 1 and layers[-1] < depth


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    chosen=st.lists(st.integers(0, 60), min_size=1, max_size=10, unique=True),
    plans=st.lists(st.booleans(), min_size=10, max_size=10),
    costs=st.sampled_from(
        [EAGER, LoopCosts(0.0, 1.0, 0.0), LoopCosts(3.0, 1.0, 1e9), LoopCosts(3.0, 1.0, 20.0)]
    ),
    at=st.integers(0, 60),
)
def test_no_company_changes_a_rows_answer_or_exit_layer(
    segments: Segments, task: ChoiceTask, texts: list[str], calibration: Calibration,
    chosen: list[int], plans: list[bool], costs: LoopCosts, at: int,
) -> None:  # fmt: skip
    """However rows are batched, divided, compacted; the threshold is one that a row just meets."""
    prompts = [task.encode(text) for text in texts[:61]]
    (alone,) = trace_all(segments, task, [prompts[at]], calibration.heads)
    threshold = alone.exits[1].confidence
    policy = ExitPolicy(
        "b", 1, (1, 3, 5), (threshold,) * 3, "", "learned", segments.loaded.revision, 6
    )
    together = answer_batch(
        segments, task, [prompts[place] for place in chosen],
        [RowPlan(True, run_on) for _, run_on in zip(chosen, plans, strict=False)],
        policy, calibration.heads, costs=costs,
    )  # fmt: skip
    for place, result in zip(chosen, together, strict=True):
        (single,) = answer_batch(
            segments, task, [prompts[place]], [RowPlan(True)], policy, calibration.heads,
            costs=EAGER,
        )  # fmt: skip
        assert result.answer is not None and single.answer is not None
        assert result.answer.label == single.answer.label
        assert result.answer.exit_layer == single.answer.exit_layer


def test_a_row_that_just_meets_the_threshold_goes_on(
    segments: Segments, task: ChoiceTask, texts: list[str], calibration: Calibration
) -> None:
    prompt = task.encode(texts[0])
    (alone,) = trace_all(segments, task, [prompt], calibration.heads)
    thresholds = (1.0, alone.exits[1].confidence, 1.0)
    policy = ExitPolicy("b", 1, (1, 3, 5), thresholds, "", "learned", "", 6)
    (result,) = answer_batch(
        segments, task, [prompt], [RowPlan(True, True)], policy, calibration.heads, costs=EAGER
    )
    assert result.answer is not None and result.answer.exit_layer is None
    assert result.trace is not None and replay(result.trace, policy).exit_layer is None
    below = dataclasses.replace(policy, thresholds=(1.0, thresholds[1] - 1e-3, 1.0))
    (result,) = answer_batch(
        segments, task, [prompt], [RowPlan(True)], below, calibration.heads, costs=EAGER
    )
    assert result.answer is not None and result.answer.exit_layer == 3


def test_labels_that_tie_do_not_exit(
    segments: Segments, task: ChoiceTask, texts: list[str], calibration: Calibration
) -> None:
    head = calibration.heads.heads[3]
    # Two labels read by one row of the head always score alike.
    twins = dataclasses.replace(
        head, weight=head.weight[[0, 0, 0, 0]], bias=head.bias[[0, 0, 0, 0]]
    )
    heads = dataclasses.replace(calibration.heads, heads=calibration.heads.heads | {3: twins})
    policy = ExitPolicy("b", 1, (1, 3, 5), (1.0, 1e-9, 1.0), "", "learned", "", 6)
    results = run(segments, task, texts[:6], RowPlan(True), policy, heads)
    assert all(answer is not None and answer.exit_layer != 3 for answer, _, _ in results)


def test_rows_in_a_batch_are_only_taken_out_where_that_pays(
    segments: Segments, task: ChoiceTask, texts: list[str], policy: ExitPolicy,
    calibration: Calibration,
) -> None:  # fmt: skip
    rows: list[int] = []
    hook = segments.loaded.layers[5].register_forward_hook(
        lambda _module, _args, output: rows.append(output.shape[0])
    )
    dear = LoopCosts(call_ms=1e6, token_ms=1.0, gather_ms=1e9)
    try:
        results = answer_batch(
            segments, task, [task.encode(text) for text in texts[:32]], [RowPlan(True)] * 32,
            policy, calibration.heads, costs=dear,
        )  # fmt: skip
    finally:
        hook.remove()
    assert rows == [32]
    eager = run(segments, task, texts[:32], RowPlan(True), policy, calibration.heads)
    assert [result.answer and result.answer.exit_layer for result in results] == [
        answer and answer.exit_layer for answer, _, _ in eager
    ]


def test_a_policy_that_leaves_out_one_of_its_heads_is_refused(
    segments: Segments, task: ChoiceTask, texts: list[str], calibration: Calibration
) -> None:
    policy = ExitPolicy("b", 1, (1, 5), (0.9, 0.9), "", "learned", segments.loaded.revision, 6)
    with pytest.raises(ValueError, match="heads at"):
        run(segments, task, texts[:1], RowPlan(True), policy, calibration.heads)


def test_a_cached_template_beginning_changes_no_answer_and_no_exit(
    segments: Segments, task: ChoiceTask, texts: list[str], policy: ExitPolicy,
    calibration: Calibration,
) -> None:  # fmt: skip
    assert task.prefix_tokens
    prefix = segments.cache_prefix(task.prefix_tokens)
    prompts = [task.encode(text) for text in texts[:24]]
    assert all(task.shared_tokens(prompt) == len(prefix.tokens) for prompt in prompts)
    plans = [RowPlan(True, number % 3 == 0) for number in range(24)]
    plain, cached = (
        answer_batch(
            segments, task, prompts, plans, policy, calibration.heads, costs=EAGER, prefix=before
        )
        for before in (None, prefix)
    )
    for one, other in zip(plain, cached, strict=True):
        assert one.answer is not None and other.answer is not None
        assert (one.answer.label, one.answer.exit_layer) == (
            other.answer.label,
            other.answer.exit_layer,
        )
        assert one.prompt_tokens == other.prompt_tokens
        assert (one.trace is None) == (other.trace is None)


def test_a_prompt_that_begins_otherwise_runs_in_whole(
    segments: Segments, task: ChoiceTask, texts: list[str]
) -> None:
    prefix = segments.cache_prefix(task.prefix_tokens)
    prompts = [task.encode(texts[0]), [[7, *task.encode(texts[1])[0]]]]
    assert task.shared_tokens(prompts[1]) == 0
    results = answer_batch(
        segments, task, prompts, [RowPlan()] * 2, None, None, costs=EAGER, prefix=prefix
    )
    for prompt, result in zip(prompts, results, strict=True):
        assert result.answer is not None
        assert result.answer.label == full_depth_answer(task, prompt)
