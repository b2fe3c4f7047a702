"""`rollout analyze`: what early exit could save on past requests, before any rollout.

The requests are shuffled and split. On the first part `calibrate` makes a policy as it would for a
rollout, and the forecast's threshold is chosen. The second part judges: nothing was fitted or
chosen on it.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rollout.engine.calibration import Calibration, calibrate, spread_exit_layers, trace
from rollout.engine.few_shot import PastRow, choose_examples, encode_row, few_shot_template
from rollout.engine.layers import (
    Prompt,
    answers_by_layer,
    batch_count,
    fit_label_heads,
    without_each_layer,
)
from rollout.engine.segments import Segments
from rollout.engine.task import BadRequest, ChoiceTask, compile_task
from rollout.stats.analysis import DomainAnalysis, ShotAnalysis
from rollout.stats.forecast import forecast, share
from rollout.stats.layers import UNLABELLED, layer_curve, layer_importance
from rollout.values import ExitPolicy, RolloutError

TARGETS = (0.95, 0.98, 0.99)
CALIBRATED_PART = 0.6
"""Share of the requests that heads and thresholds are made from; the rest judges."""
MIN_REQUESTS = 60
"""Of a domain: 36 to calibrate on, 24 to judge."""
PLACED_FOR = 0.98
"""The target that exit layers and criterion are chosen for."""
SKIPPED_REQUESTS = 128
"""Requests that layers are left out for: it costs half the depth in full passes of each."""
MAX_LAYERS = 24
"""Heads are asked at every layer of a model, or at this many spread over a deeper one."""
Progress = Callable[[str, int, int], None]
"""Told what is being done, steps done, and steps in all."""


def analyse(
    segments: Segments,
    domain: str,
    labels: Sequence[str],
    template: str,
    requests: Sequence[PastRow],
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
    requests: Sequence[PastRow],
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
        target=PLACED_FOR,
        never_early=never_early,
        progress=lambda done, total: progress(f"{what}: calibrating", done, total),
    )
    depth = segments.loaded.depth
    layers = spread_exit_layers(depth, MAX_LAYERS)
    learning = [prompt for _, prompt in encoded[:cut]]
    steps = batch_count(len(learning)) + 2 * batch_count(len(prompts))
    step = _steps(progress, f"{what}: judging", steps)
    traces = trace(segments, task, prompts, fitted.heads, step)
    heads = fit_label_heads(segments, task, learning, layers, step)
    by_lens, by_heads = answers_by_layer(segments, task, prompts, heads, step)
    truth = np.array([_known(request.label) for request in judging])
    labelled = truth != UNLABELLED
    policy = _policy(segments, fitted, never_early)
    return ShotAnalysis(
        shots=count,
        rows=len(judging),
        left_out=len(requests) - len(encoded),
        prompt_tokens=float(np.mean([len(prompt[0]) for prompt in prompts])),
        full_accuracy=share(by_lens[labelled, -1] == truth[labelled]) if labelled.any() else None,
        no_label_share=fitted.no_label_share,
        lens=layer_curve(by_lens, range(1, depth + 1), truth),
        calibrated=layer_curve(by_heads, [*layers, depth], truth),
        probe_cost=fitted.costs.probe_cost,
        exit_layers=policy.exit_layers,
        head=fitted.heads.kind,
        criterion=fitted.heads.criterion,
        forecasts=tuple(
            forecast(fitted.proposing, fitted.held_out, traces, policy, target)
            for target in TARGETS
        ),
    )


def _policy(segments: Segments, fitted: Calibration, never_early: frozenset[int]) -> ExitPolicy:
    layers = fitted.heads.layers
    return ExitPolicy(
        domain="",
        version=0,
        exit_layers=layers,
        thresholds=(1.0,) * len(layers),
        heads="",
        criterion=fitted.heads.criterion,
        model_revision=segments.loaded.revision,
        depth=segments.loaded.depth,
        never_early=never_early,
        probe_cost=fitted.costs.probe_cost,
    )


def _fitting(task: ChoiceTask, requests: Sequence[PastRow]) -> Iterator[tuple[PastRow, Prompt]]:
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
