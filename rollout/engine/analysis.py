"""`rollout analyze`: what early exit could save on past requests, before any rollout.

The requests are shuffled and split. On the first part `calibrate` fits heads and leaves traces of
rows they were not fitted on, as it would for a policy; on these the forecast's threshold is chosen.
The second part judges: nothing was fitted or chosen on it.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rollout.engine.calibration import (
    MIN_EXAMPLES,
    Calibration,
    calibrate,
    spread_exit_layers,
    trace,
)
from rollout.engine.few_shot import Asked, choose_examples, encode_row, few_shot_template
from rollout.engine.layers import Prompt, batch_count, lens_answers, without_each_layer
from rollout.engine.segments import Segments
from rollout.engine.task import BadRequest, ChoiceTask, compile_task
from rollout.stats.analysis import DomainAnalysis, ShotAnalysis
from rollout.stats.forecast import forecast, share
from rollout.stats.layers import UNLABELLED, layer_curve, layer_importance
from rollout.values import ExitPolicy, RolloutError

TARGETS = (0.95, 0.98, 0.99)
CALIBRATED_PART = 0.6
"""Share of the requests that heads and thresholds are made from; the rest judges."""
MIN_REQUESTS = -(-MIN_EXAMPLES * 10 // 6)
"""So that the calibrated part is enough for `calibrate`."""
SKIPPED_REQUESTS = 128
"""Requests that layers are left out for: it costs half the depth in full passes of each."""
MAX_LAYERS = 24
"""Exit heads are fitted at every layer of a model, or at this many spread over a deeper one."""
Progress = Callable[[str, int, int], None]
"""Told what is being done, steps done, and steps in all."""


def analyse(
    segments: Segments,
    domain: str,
    labels: Sequence[str],
    template: str,
    requests: Sequence[Asked],
    *,
    shots: Sequence[int] = (0,),
    never_early: frozenset[int] = frozenset(),
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> DomainAnalysis:
    """Analyse one domain.

    Args:
        requests: Any order: they are shuffled by the seed.
        shots: Numbers of solved examples to try, each on the same requests.
        never_early: Indices of labels that may not be answered early.
        limit: Use at most this many requests.

    Raises:
        RolloutError: too few requests, one that is longer than the context (with its row), labels
            or template that do not fit the model.
    """
    task = compile_task(segments.loaded, labels, template)
    chosen = list(requests)
    random.Random(seed).shuffle(chosen)
    examples, chosen = choose_examples(segments, task, chosen, max(shots))
    chosen = chosen[:limit]
    if len(chosen) < MIN_REQUESTS:
        raise RolloutError(
            f"domain {domain}: {len(chosen)} requests are too few to fit heads on one part and "
            f"judge them on another: give {MIN_REQUESTS} or more"
        )
    prompts = [encode_row(task, request) for request in chosen]
    found = []
    for count in shots:
        prompt = few_shot_template(template, examples[:count])
        shot_task = compile_task(segments.loaded, labels, prompt)
        found.append(_shot(segments, shot_task, domain, count, chosen, never_early, progress))
    skipped = prompts[_cut(len(prompts)) :][:SKIPPED_REQUESTS]
    step = _steps(progress, f"{domain}: without each layer", batch_count(len(skipped)))
    return DomainAnalysis(
        domain=domain,
        labels=len(labels),
        rows=len(chosen),
        labelled=sum(request.label is not None for request in chosen),
        depth=segments.loaded.depth,
        examples=tuple(examples),
        shots=tuple(found),
        importance=layer_importance(*without_each_layer(segments, task, skipped, step)),
        skipped_rows=len(skipped),
    )


def _shot(
    segments: Segments,
    task: ChoiceTask,
    domain: str,
    count: int,
    requests: Sequence[Asked],
    never_early: frozenset[int],
    progress: Progress,
) -> ShotAnalysis:
    encoded = list(_fitting(task, requests))
    if len(encoded) < MIN_REQUESTS:
        raise RolloutError(
            f"domain {domain}: with {count} examples {len(encoded)} of {len(requests)} prompts "
            f"fit the context of {segments.loaded.context_tokens} tokens, and {MIN_REQUESTS} are "
            "needed: ask for fewer --shots"
        )
    cut = _cut(len(encoded))
    judging, prompts = zip(*encoded[cut:], strict=True)
    what = f"{domain}, {count}-shot"
    fitted = calibrate(
        segments,
        task,
        [request.text for request, _ in encoded[:cut]],
        exit_layers=_layers(segments.loaded.depth),
        progress=lambda done, total: progress(f"{what}: fitting heads", done, total),
    )
    step = _steps(progress, f"{what}: judging", 2 * batch_count(len(prompts)))
    traces = trace(segments, task, prompts, fitted.heads, step)
    by_lens = lens_answers(segments, task, prompts, step)
    truth = np.array([_known(request.label) for request in judging])
    labelled = truth != UNLABELLED
    layers = [point.layer for point in traces[0].exits]
    answers = [[*(point.answer for point in one.exits), one.full_answer] for one in traces]
    policy = _policy(segments, fitted, never_early)
    return ShotAnalysis(
        shots=count,
        rows=len(judging),
        left_out=len(requests) - len(encoded),
        prompt_tokens=float(np.mean([len(prompt[0]) for prompt in prompts])),
        full_accuracy=share(by_lens[labelled, -1] == truth[labelled]) if labelled.any() else None,
        lens=layer_curve(by_lens, range(1, segments.loaded.depth + 1), truth),
        calibrated=layer_curve(answers, [*layers, segments.loaded.depth], truth),
        probe_cost=fitted.costs.probe_cost,
        exit_layers=policy.exit_layers,
        forecasts=tuple(forecast(fitted.held_out, traces, policy, target) for target in TARGETS),
    )


def _policy(segments: Segments, fitted: Calibration, never_early: frozenset[int]) -> ExitPolicy:
    """Exits where calibration would place them."""
    depth = segments.loaded.depth
    layers = spread_exit_layers(depth)
    return ExitPolicy(
        domain="",
        version=0,
        exit_layers=layers,
        thresholds=(1.0,) * len(layers),
        heads="",
        criterion=fitted.heads.criterion,
        model_revision=segments.loaded.revision,
        depth=depth,
        never_early=never_early,
        probe_cost=fitted.costs.probe_cost,
    )


def _layers(depth: int) -> tuple[int, ...]:
    count = min(MAX_LAYERS, depth - 1)
    return tuple(sorted({round((place + 1) * depth / (count + 1)) for place in range(count)}))


def _fitting(task: ChoiceTask, requests: Sequence[Asked]) -> Iterator[tuple[Asked, Prompt]]:
    """Requests whose prompt fits the context."""
    for request in requests:
        with contextlib.suppress(BadRequest):
            yield request, task.encode(request.text)


def _cut(rows: int) -> int:
    return round(CALIBRATED_PART * rows)


def _known(label: int | None) -> int:
    return UNLABELLED if label is None else label


def _steps(progress: Progress, what: str, total: int) -> Callable[[], None]:
    done = itertools.count(1)
    return lambda: progress(what, next(done), total)
