"""Answer a batch of choice requests: rows leave as they exit, shadowed rows run on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rollout.engine.heads import ExitHeads
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask
from rollout.values import DepthTrace, ExitPoint, ExitPolicy, takes_exit


@dataclass(frozen=True)
class RowPlan:
    """What may happen to one request.

    Attributes:
        may_exit: Early arm: the request is answered at the first confident exit.
        run_on: Shadow: after its exit the row stays in the batch for the comparison.
    """

    may_exit: bool = False
    run_on: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer to one request, given at `exit_layer` (None: full depth)."""

    label: int
    exit_layer: int | None
    confidence: float | None
    layers_run: int


@dataclass(frozen=True)
class RowResult:
    """Everything known of one request when its batch is done.

    Attributes:
        answer: None where the full model's own scores were not finite.
        trace: Where the row ran to full depth, else None.
        shadow_layers: Layers run past the exit, for the comparison only.
        probes: Exit heads asked.
        fault: A numerical fault that kept the row from exiting, in words.
    """

    answer: Answer | None
    trace: DepthTrace | None
    shadow_layers: int
    probes: int
    prompt_tokens: int
    fault: str | None


@dataclass
class _Row:
    plan: RowPlan
    prompt_tokens: int
    points: list[ExitPoint] = field(default_factory=list)
    answer: Answer | None = None
    probes: int = 0
    fault: str | None = None


OnAnswer = Callable[[int, Answer], None]


@torch.inference_mode()
def answer_batch(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[list[list[int]]],
    plans: Sequence[RowPlan],
    policy: ExitPolicy | None,
    heads: ExitHeads | None,
    on_answer: OnAnswer = lambda row, answer: None,
) -> list[RowResult]:
    """Run a batch through the layers; `on_answer(row, answer)` is called as each row is answered.

    Layers past the last running row's exit are not computed. A row whose confidence is not finite
    does not exit. Without a policy every row gets full depth and an empty trace.

    Args:
        prompts: `task.encode(text)` of each request.
        plans: One per request.
        policy, heads: What is live; both or neither.
    """
    rows = [_Row(plan, len(prompt[0])) for prompt, plan in zip(prompts, plans, strict=True)]
    exits = _exits(policy, heads)
    running = list(range(len(rows)))
    depth = segments.loaded.depth
    state = segments.start([branch for prompt in prompts for branch in prompt])
    for layer in exits:
        state = segments.advance(state, layer)
        assert policy is not None and heads is not None
        scores = heads.heads[layer].scores(task, state.last_hidden)
        confidence = heads.heads[layer].confidence(heads.criterion, scores)
        points = _read(layer, scores, confidence)
        staying = []
        for place, number in enumerate(running):
            row, point = rows[number], points[place]
            row.probes += 1
            row.points.append(point)
            if not math.isfinite(point.confidence):
                row.fault = f"the confidence at layer {layer} is not finite"
            elif row.plan.may_exit and row.answer is None and takes_exit(policy, point):
                row.answer = Answer(point.answer, layer, point.confidence, layer)
                on_answer(number, row.answer)
            if row.answer is None or row.plan.run_on:
                staying.append(place)
        if not staying:
            return [_result(row, None, None) for row in rows]
        if len(staying) < len(running):
            branches = task.rows_per_request
            kept = [place * branches + branch for place in staying for branch in range(branches)]
            state = segments.compact(state, kept)
            running = [running[place] for place in staying]
    state = segments.advance(state, depth)
    scores = task.scores(segments.loaded.norm(state.last_hidden))
    full: dict[int, int] = {}
    for number, best, finite in zip(
        running, scores.argmax(-1).tolist(), scores.isfinite().all(-1).tolist(), strict=True
    ):
        row = rows[number]
        if not finite:
            row.fault = "the full model's label scores are not finite"
            continue
        full[number] = best
        if row.answer is None:
            row.answer = Answer(best, None, None, depth)
            on_answer(number, row.answer)
    in_last_layer = set(running)
    return [
        _result(row, full.get(number), depth if number in in_last_layer else None)
        for number, row in enumerate(rows)
    ]


def _exits(policy: ExitPolicy | None, heads: ExitHeads | None) -> tuple[int, ...]:
    return () if policy is None or heads is None else policy.exit_layers


def _read(layer: int, scores: Tensor, confidence: Tensor) -> list[ExitPoint]:
    """One read-back from the device per exit."""
    both = torch.stack([scores.argmax(-1).to(confidence.dtype), confidence], dim=-1)
    return [ExitPoint(layer, int(label), value) for label, value in both.tolist()]


def _result(row: _Row, full_answer: int | None, reached: int | None) -> RowResult:
    trace = None
    if full_answer is not None and reached is not None:
        trace = DepthTrace(tuple(row.points), full_answer, reached)
    shadow_layers = 0
    if row.answer is not None and reached is not None:
        shadow_layers = reached - row.answer.layers_run
    return RowResult(row.answer, trace, shadow_layers, row.probes, row.prompt_tokens, row.fault)
