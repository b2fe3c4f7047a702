"""Fit exit heads to the full model's own answers, and measure what layers and probes cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rollout.engine.choice import RowPlan, answer_batch
from rollout.engine.criteria import CRITERIA, features, fit_confidence
from rollout.engine.heads import ExitHead, ExitHeads, fit_translator
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask
from rollout.values import DepthTrace, ExitPolicy, RolloutError

BATCH = 32
MIN_EXAMPLES = 100
MAX_EXITS = 8


class TooFewExamples(RolloutError):
    """Not enough texts to fit and to certify an exit policy on."""


@dataclass(frozen=True)
class Costs:
    """Measured here: milliseconds per layer and request, and a probe's cost in layers."""

    layer_ms: float
    probe_cost: float


@dataclass(frozen=True)
class Calibration:
    """Fitted heads, and depth traces of texts that the heads were not fitted on."""

    heads: ExitHeads
    held_out: tuple[DepthTrace, ...]
    costs: Costs


@dataclass(frozen=True)
class _Collected:
    """Hidden states [requests, branches, width]; label scores [requests, labels]."""

    exits: dict[int, Tensor]
    final: Tensor
    scores: Tensor


def spread_exit_layers(depth: int) -> tuple[int, ...]:
    """At most `MAX_EXITS` exit layers, evenly spread over the layers before the last."""
    count = min(MAX_EXITS, depth - 1)
    return tuple(sorted({round((place + 1) * depth / (count + 1)) for place in range(count)}))


def calibrate(
    segments: Segments,
    task: ChoiceTask,
    texts: Sequence[str],
    *,
    exit_layers: Sequence[int] | None = None,
    criterion: str = "learned",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Fit heads on the first 40 % of the texts, their confidence on the next 20 %; trace the rest.

    The order of the texts decides the parts: shuffle them first where it carries meaning.

    Args:
        texts: Unlabelled past requests of the domain.
        progress: Called with (steps done, steps in all).

    Raises:
        TooFewExamples: fewer than `MIN_EXAMPLES` texts.
        BadRequest: a text that is empty or does not fit the context.
    """
    if len(texts) < MIN_EXAMPLES:
        raise TooFewExamples(
            f"{len(texts)} texts are too few to fit and certify a policy: "
            f"give {MIN_EXAMPLES} or more"
        )
    depth = segments.loaded.depth
    layers = tuple(exit_layers) if exit_layers is not None else spread_exit_layers(depth)
    prompts = [task.encode(text) for text in texts]
    fit_end, confidence_end = round(0.4 * len(texts)), round(0.6 * len(texts))
    batches = -(-confidence_end // BATCH) + -(-(len(texts) - confidence_end) // BATCH)
    total, done = batches + len(layers), 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    collected = _collect(segments, task, prompts[:confidence_end], layers, step)
    heads: dict[int, ExitHead] = {}
    for layer in layers:
        weight, bias = fit_translator(
            task,
            collected.exits[layer][:fit_end],
            collected.final[:fit_end],
            collected.scores[:fit_end],
        )
        dtype = segments.loaded.model.dtype
        blank = torch.zeros(len(CRITERIA[criterion]) + 1, device=weight.device)
        head = ExitHead(weight.to(dtype), bias.to(dtype), blank)
        with torch.inference_mode():
            scores = head.scores(task, collected.exits[layer][fit_end:].flatten(0, 1))
            values = features(criterion, scores).double().cpu().numpy()
            agrees = scores.argmax(-1) == collected.scores[fit_end:].argmax(-1)
        weights = fit_confidence(values, agrees.cpu().numpy())
        calibration = torch.tensor(weights, dtype=torch.float32, device=weight.device)
        heads[layer] = ExitHead(head.weight, head.bias, calibration)
        step()
    fitted = ExitHeads(heads, criterion, segments.loaded.revision, task.fingerprint)
    traces = trace(segments, task, prompts[confidence_end:], fitted, step)
    return Calibration(fitted, traces, measure_costs(segments, task, prompts[:BATCH], fitted))


def trace(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[list[list[int]]],
    heads: ExitHeads,
    step: Callable[[], None] = lambda: None,
) -> tuple[DepthTrace, ...]:
    """Full-depth passes with every exit asked, in the order of the prompts."""
    asks_all = ask_every_exit(heads, segments.loaded.depth)
    traces: list[DepthTrace] = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        for result in answer_batch(segments, task, part, [RowPlan()] * len(part), asks_all, heads):
            if result.trace is not None:
                traces.append(result.trace)
        step()
    return tuple(traces)


def ask_every_exit(heads: ExitHeads, depth: int) -> ExitPolicy:
    """A policy that asks every head, for rows that may not exit."""
    layers = tuple(sorted(heads.heads))
    return ExitPolicy(
        "", 0, layers, (1.0,) * len(layers), "", heads.criterion, heads.model_revision, depth
    )


@torch.inference_mode()
def measure_costs(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[list[list[int]]],
    heads: ExitHeads,
    repeats: int = 15,
) -> Costs:
    """Wall-clock time of a layer and of a probe for one batch, per request.

    The fastest of the repeats counts, layers and probes taking turns: what the machine does when
    nothing else runs on it.
    """
    state = segments.start([branch for prompt in prompts for branch in prompt])
    depth = segments.loaded.depth
    middle = segments.advance(state, depth // 2)
    head = next(iter(heads.heads.values()))

    def probe() -> None:
        head.confidence(heads.criterion, head.scores(task, middle.last_hidden)).tolist()

    def layers() -> None:
        segments.advance(state, depth).hidden[0, 0, 0].item()

    times = [(_seconds(layers), _seconds(probe)) for _ in range(repeats)]
    layer_s = min(layers_s for layers_s, _ in times) / depth
    return Costs(
        layer_ms=1000 * layer_s / len(prompts),
        probe_cost=min(probe_s for _, probe_s in times) / layer_s,
    )


def _seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@torch.inference_mode()
def _collect(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[list[list[int]]],
    layers: Sequence[int],
    step: Callable[[], None],
) -> _Collected:
    exits: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    final: list[Tensor] = []
    scores: list[Tensor] = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        state = segments.start([branch for prompt in part for branch in prompt])
        for layer in layers:
            state = segments.advance(state, layer)
            exits[layer].append(_per_request(state.last_hidden, len(part)))
        state = segments.advance(state, segments.loaded.depth)
        final.append(_per_request(state.last_hidden, len(part)))
        scores.append(task.scores(segments.loaded.norm(state.last_hidden)))
        step()
    return _Collected(
        {layer: torch.cat(parts) for layer, parts in exits.items()},
        torch.cat(final),
        torch.cat(scores),
    )


def _per_request(hidden: Tensor, requests: int) -> Tensor:
    """[requests * branches, width] -> [requests, branches, width]."""
    return hidden.reshape(requests, -1, hidden.shape[-1])
