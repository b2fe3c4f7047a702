"""Fit exit heads to the full model's own answers, place them, and trace texts that they never saw.

The first part of the texts is for fitting and choosing: heads, exit layers, criterion, candidate
thresholds. Every score that a choice rests on comes from a head that was not fitted on that row.
The rest of the texts is only traced; it alone certifies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rollout.engine.choice import RowPlan, answer_batch
from rollout.engine.collect import BATCH, Collected, by_length, collect
from rollout.engine.costs import Costs, measure_costs
from rollout.engine.criteria import CRITERIA
from rollout.engine.distil import FittedHead, fit_label_head, fit_logit_lens, fit_tuned_lens
from rollout.engine.heads import ExitHead, ExitHeads
from rollout.engine.placement import working_limit
from rollout.engine.segments import Segments
from rollout.engine.selection import PLACING, Aim, choose_criterion, choose_layers, judged
from rollout.engine.task import ChoiceTask
from rollout.values import DepthTrace, ExitPolicy, RolloutError

MIN_EXAMPLES = 16
MIN_FIT = 48
"""With fewer texts left to fit on, none are set aside to certify."""
MAX_FIT = 4096
MAX_CANDIDATES = 16
"""Layers of a deep model at which an exit is considered."""
SPREAD_EXITS = 8
ALPHA = 0.05
"""Chance that a certificate is wrong."""
AUTO = "auto"
AUTO_HEADS = ("logit_lens", "label_head")
"""Tried by `auto`. Behind label rows a tuned lens is a linear map to labels, too, with more numbers
to fit and no closed form: it is fitted where it is asked for."""


class TooFewExamples(RolloutError):
    """Not enough texts to fit an exit policy on."""


@dataclass(frozen=True)
class Calibration:
    """Fitted heads, and depth traces of texts.

    Attributes:
        held_out: Traces of texts on which nothing was fitted or chosen; empty where the texts are
            too few to certify anything at the target.
        proposing: Traces of the texts that heads were fitted on, each with scores of a head, and
            confidence of a judge, that had not seen it. They choose; they never certify.
        no_label_share: Share of the fitting texts whose most probable token begins no label.
    """

    heads: ExitHeads
    held_out: tuple[DepthTrace, ...]
    costs: Costs
    proposing: tuple[DepthTrace, ...]
    no_label_share: float


def spread_exit_layers(depth: int, most: int = SPREAD_EXITS) -> tuple[int, ...]:
    """At most so many exit layers, evenly spread over the layers before the last."""
    count = min(most, depth - 1)
    return tuple(sorted({round((place + 1) * depth / (count + 1)) for place in range(count)}))


def certifying_rows(texts: int, target: float) -> int:
    """How many texts are set aside to certify: half, more where the exact test needs it, or none.

    n requests without any mismatch certify agreement above the target with
    n >= log(alpha) / log(target).

    >>> certifying_rows(48, 0.98), certifying_rows(210, 0.98), certifying_rows(1000, 0.98)
    (0, 149, 500)
    """
    needed = math.ceil(math.log(ALPHA) / math.log(target))
    rows = max(texts // 2, needed)
    return rows if texts - rows >= MIN_FIT else 0


def calibrate(
    segments: Segments,
    task: ChoiceTask,
    texts: Sequence[str],
    *,
    exit_layers: Sequence[int] | None = None,
    criterion: str = AUTO,
    head: str = AUTO,
    target: float | None = None,
    never_early: frozenset[int] = frozenset(),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Fit and choose on the first part of the texts, trace the rest.

    The order of the texts decides the parts: shuffle them first where it carries meaning.

    Args:
        texts: Unlabelled past requests of the domain.
        exit_layers: None: those that save most.
        criterion: One of `CRITERIA`; `auto`: the one that saves most.
        head: One of `HEAD_KINDS`; `auto`: the one that saves most.
        target: Agreement that is wanted. None: 0.98, and half of the texts are traced, however few.
        never_early: Label indices that may not be answered early.
        progress: Called with (steps done, steps in all).

    Raises:
        TooFewExamples: fewer than `MIN_EXAMPLES` texts.
        BadRequest: a text that is empty or does not fit the context.
    """
    if len(texts) < MIN_EXAMPLES:
        raise TooFewExamples(
            f"{len(texts)} texts are too few to fit a policy: give {MIN_EXAMPLES} or more"
        )
    held_out = len(texts) // 2 if target is None else certifying_rows(len(texts), target)
    fit_rows = min(len(texts) - held_out, MAX_FIT)
    prompts = [task.encode(text) for text in texts]
    depth = segments.loaded.depth
    candidates = tuple(exit_layers or spread_exit_layers(depth, MAX_CANDIDATES))
    kinds = AUTO_HEADS if head == AUTO else (head,)
    batches = math.ceil(fit_rows / BATCH) + math.ceil((len(texts) - fit_rows) / BATCH)
    step = _counter(progress, batches + len(kinds) * len(candidates) + 1)
    collected = collect(segments, task, prompts[:fit_rows], candidates, step)
    limit = working_limit(1 - (target or 0.98), held_out, ALPHA)
    best: tuple[float, str, dict[int, FittedHead], Aim] | None = None
    for kind in kinds:
        fitted = {}
        for layer in candidates:
            fitted[layer] = _fit(kind, task, collected, layer)
            step()
        costs = _probe_costs(segments, task, prompts[:BATCH], kind, fitted)
        aim = Aim(limit, depth, costs.probe_cost, never_early)
        layers, saving = choose_layers(collected, fitted, aim, all_layers=exit_layers is not None)
        if best is None or saving > best[0]:
            best = saving, kind, {layer: fitted[layer] for layer in layers}, aim
    assert best is not None
    _, kind, fitted, aim = best
    tried = CRITERIA if criterion == AUTO else (criterion,)
    chosen, proposing = choose_criterion(collected, fitted, aim, tried)
    heads = ExitHeads(
        judged(chosen, collected, fitted),
        chosen,
        segments.loaded.revision,
        task.fingerprint,
        kind,
    )
    step()
    return Calibration(
        heads,
        trace(segments, task, prompts[fit_rows:], heads, step),
        measure_costs(segments, task, prompts[:BATCH], heads),
        proposing,
        collected.no_label / collected.requests,
    )


def trace(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[list[list[int]]],
    heads: ExitHeads,
    step: Callable[[], None] = lambda: None,
) -> tuple[DepthTrace, ...]:
    """Full-depth passes with every exit asked, in the order of the prompts.

    Raises:
        RolloutError: the model's scores are not finite.
    """
    asks_all = ask_every_exit(heads, segments.loaded.depth)
    traces: dict[int, DepthTrace] = {}
    for places in by_length(prompts):
        part = [prompts[place] for place in places]
        plans = [RowPlan()] * len(part)
        for place, result in zip(
            places, answer_batch(segments, task, part, plans, asks_all, heads), strict=True
        ):
            if result.trace is None:
                raise RolloutError(f"the model cannot be traced: {result.fault}")
            traces[place] = result.trace
        step()
    return tuple(traces[place] for place in range(len(prompts)))


def ask_every_exit(heads: ExitHeads, depth: int) -> ExitPolicy:
    """A policy that asks every head; used with rows that may not exit."""
    layers = heads.layers
    return ExitPolicy(
        "", 0, layers, (1.0,) * len(layers), "", heads.criterion, heads.model_revision, depth
    )


def _counter(progress: Callable[[int, int], None], total: int) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return step


def _fit(kind: str, task: ChoiceTask, collected: Collected, layer: int) -> FittedHead:
    seen = collected.seen(kind, layer)
    if kind == "logit_lens":
        return fit_logit_lens(task, seen)
    if kind == "label_head":
        return fit_label_head(task, seen, collected.scores)
    return fit_tuned_lens(task, seen, collected.final, collected.scores)


def _probe_costs(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[list[list[int]]],
    kind: str,
    fitted: dict[int, FittedHead],
) -> Costs:
    """What a probe of this kind costs, before there is a judge."""
    device = segments.loaded.device
    blank = torch.zeros(len(CRITERIA[PLACING]) + 1, device=device)
    none = torch.empty(0, len(blank), device=device)
    layer, head = next(iter(fitted.items()))
    probing = ExitHeads(
        {layer: ExitHead(head.weight, head.bias, blank, none)}, PLACING, "", "", kind
    )
    return measure_costs(segments, task, prompts, probing)
