"""Early exit and quantization together, their savings told apart.

The same held-out texts answered four ways: plain, with early exit only, quantised only, and both.
Each model's policy comes from the same texts, which the answered ones are not among. Agreement is
with the unquantised full model, so that what quantization itself changes is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks.form import Measured
from benchmarks.reference import reference_model_folder
from benchmarks.reference.sets import read_set
from rollout.engine.calibration import calibrate
from rollout.engine.certify import certify, propose_threshold
from rollout.engine.choice import RowPlan, RowResult, answer_batch
from rollout.engine.costs import loop_costs
from rollout.engine.heads import ExitHeads
from rollout.engine.loading import LoadedModel, load_model
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask, compile_task
from rollout.pilot import LABELS_FILE, MODEL_DIR, TEMPLATE_FILE
from rollout.pilot.texts import generate
from rollout.values import ExitPolicy

TARGET = 0.98
REFERENCE_SET = "sst2"
FORMATS = ("none", "int8", "int4")
BATCH = 32
BAR = 0.6


@dataclass(frozen=True)
class Subject:
    """A model, its task, and texts: to calibrate with, and others to answer."""

    name: str
    folder: Path
    labels: Sequence[str]
    template: str
    calibrating: Sequence[str]
    answered: Sequence[str]


def measure(quick: bool) -> Measured:
    torch.set_num_threads(2)
    subjects = [_pilot(quick)]
    if (reference_model_folder() / "training.json").exists():
        subjects.append(_reference(quick))
    tables = {subject.name: _table(subject, 2 if quick else 6) for subject in subjects}
    told = subjects[-1].name
    rows = {(row["format"], row["early exit"]): row for row in tables[told]}
    both = rows["int8", True]
    alone = min(rows["none", True]["weights read"], rows["int8", False]["weights read"])
    value = both["weights read"] / alone
    return Measured(
        name="quantization",
        value=round(value, 3),
        unit=f"weights read for an answer with early exit and int8, over the better alone, {told}",
        bar=f"<= {BAR}, at {TARGET:.0%} agreement with the unquantised full model",
        holds=value <= BAR and both["agreement"] >= TARGET,
        details={
            "relative to": "the unquantised full model at full depth",
            "compute": "layers run and probes asked, in layers",
            "weights read": "compute times the bytes of a layer's weights",
            "target": TARGET,
            **tables,
        },
    )


def _pilot(quick: bool) -> Subject:
    texts = [ticket.text for ticket in generate(700 if quick else 1500, seed=0)]
    calibrating = 500 if quick else 1000
    return Subject(
        "pilot model",
        MODEL_DIR,
        LABELS_FILE.read_text().split(),
        TEMPLATE_FILE.read_text().rstrip("\n"),
        texts[:calibrating],
        texts[calibrating:],
    )


def _reference(quick: bool) -> Subject:
    text_set = read_set(REFERENCE_SET)
    texts = [row.text for row in Random(0).sample(text_set.held_out, len(text_set.held_out))]
    texts = texts[:400] if quick else texts[:1600]
    half = len(texts) // 2
    name = f"reference model, {REFERENCE_SET}"
    folder = reference_model_folder()
    return Subject(name, folder, text_set.labels, text_set.template, texts[:half], texts[half:])


def _table(subject: Subject, repeats: int) -> list[dict[str, Any]]:
    ways = []
    for quantization in FORMATS:
        loaded = load_model(subject.folder, quantization=quantization)
        segments = Segments(loaded)
        task = compile_task(loaded, subject.labels, subject.template)
        ways.append(_Way(quantization, segments, task, None, None, 0.0))
        ways.append(_calibrated(quantization, segments, task, subject.calibrating))
    # The ways take turns, so that what else the machine does falls on all of them.
    runs = [[_answer(way, subject.answered) for way in ways] for _ in range(repeats)]
    plain = [_label(result) for result in runs[0][0].results]
    rows = []
    for place, way in enumerate(ways):
        labels = [_label(result) for result in runs[0][place].results]
        same = sum(ours == theirs for ours, theirs in zip(labels, plain, strict=True))
        compute = _compute(way, runs[0][place].results)
        size = _bytes(way.segments.loaded) / _bytes(ways[0].segments.loaded)
        rows.append(
            {
                "format": way.quantization,
                "early exit": way.policy is not None,
                "compute": round(compute, 3),
                "bytes": round(size, 3),
                "weights read": round(compute * size, 3),
                "time": round(median(run[place].seconds / run[0].seconds for run in runs), 3),
                "agreement": round(same / len(plain), 4),
            }
        )
    return rows


@dataclass(frozen=True)
class _Way:
    quantization: str
    segments: Segments
    task: ChoiceTask
    policy: ExitPolicy | None
    heads: ExitHeads | None
    probe_cost: float


@dataclass(frozen=True)
class _Run:
    results: list[RowResult]
    seconds: float


def _calibrated(
    quantization: str, segments: Segments, task: ChoiceTask, texts: Sequence[str]
) -> _Way:
    fitted = calibrate(segments, task, texts, target=TARGET)
    chosen = certify(fitted, 1 - TARGET, frozenset())
    threshold = None if chosen is None else chosen.threshold
    if threshold is None:
        proposed = propose_threshold(fitted, 1 - TARGET, frozenset())
        # 1: no exit saves anything at this target, and nothing exits.
        threshold = 1.0 if proposed is None else proposed.threshold
    heads, depth = fitted.heads, segments.loaded.depth
    layers = heads.layers
    policy = ExitPolicy(
        *("", 1, layers, (threshold,) * len(layers), "", heads.criterion, heads.model_revision),
        depth,
    )
    return _Way(quantization, segments, task, policy, heads, fitted.costs.probe_cost)


def _answer(way: _Way, texts: Sequence[str]) -> _Run:
    prompts = sorted((way.task.encode(text) for text in texts), key=lambda rows: len(rows[0]))
    plans = [RowPlan(may_exit=way.policy is not None)] * len(prompts)
    costs = loop_costs(way.segments)
    began = perf_counter()
    results = []
    for first in range(0, len(prompts), BATCH):
        part = slice(first, first + BATCH)
        results += answer_batch(
            *(way.segments, way.task, prompts[part], plans[part], way.policy, way.heads),
            costs=costs,
        )
    return _Run(results, perf_counter() - began)


def _label(result: RowResult) -> int | None:
    return None if result.answer is None else result.answer.label


def _compute(way: _Way, results: Sequence[RowResult]) -> float:
    """Layers run and probes asked, over the full depth."""
    layers = sum(r.answer.layers_run if r.answer else way.segments.loaded.depth for r in results)
    probes = sum(result.probes for result in results) * way.probe_cost
    return (layers + probes) / (len(results) * way.segments.loaded.depth)


def _bytes(loaded: LoadedModel) -> int:
    """Of the decoder layers' parameters and packed weights."""
    tensors: dict[int, torch.Tensor] = {}
    for module in loaded.layers.modules():
        held = [*module.parameters(recurse=False), *vars(module).values()]
        tensors |= {id(value): value for value in held if isinstance(value, torch.Tensor)}
    return sum(value.numel() * value.element_size() for value in tensors.values())
