"""Layers that are not run save their time: realised over ideal speed-up, exits at half depth.

The pilot's model, 16 rows that all exit after half of the layers with their exit head asked there,
against the same rows at full depth without any head. Ideal: half of the layers, probes free.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.form import Measured
from rollout.engine.calibration import calibrate
from rollout.engine.choice import RowPlan, answer_batch
from rollout.engine.loading import load_model
from rollout.engine.segments import Segments
from rollout.engine.task import compile_task
from rollout.pilot import LABELS_FILE, MODEL_DIR, TEMPLATE_FILE
from rollout.pilot.texts import generate
from rollout.values import ExitPolicy

ROWS = 16
BAR = 0.85


def measure(quick: bool) -> Measured:
    torch.set_num_threads(1)
    segments = Segments(load_model(Path(MODEL_DIR)))
    labels = LABELS_FILE.read_text().split()
    task = compile_task(segments.loaded, labels, TEMPLATE_FILE.read_text().rstrip("\n"))
    depth = segments.loaded.depth
    exit_layer = depth // 2
    texts = [ticket.text for ticket in generate(200 + ROWS, seed=0)]
    heads = calibrate(segments, task, texts[ROWS:], exit_layers=(exit_layer,)).heads
    policy = ExitPolicy(
        "billing", 1, (exit_layer,), (0.0,), "", "learned", segments.loaded.revision, depth
    )
    prompts = [task.encode(text) for text in texts[:ROWS]]

    def full() -> None:
        answer_batch(segments, task, prompts, [RowPlan()] * ROWS, None, None)

    def early() -> None:
        answer_batch(segments, task, prompts, [RowPlan(may_exit=True)] * ROWS, policy, heads)

    # The two take turns, so that what else the machine does falls on both.
    pairs = [(_seconds(full), _seconds(early)) for _ in range(15 if quick else 60)]
    full_s, early_s = (min(times) for times in zip(*pairs, strict=True))
    ideal = depth / exit_layer
    value = (full_s / early_s) / ideal
    return Measured(
        name="realised_speedup",
        value=round(value, 3),
        unit="realised over ideal speed-up",
        bar=f">= {BAR}",
        holds=value >= BAR,
        details={
            "rows": ROWS,
            "full_ms": round(1000 * full_s, 2),
            "early_ms": round(1000 * early_s, 2),
            "speed_up": round(full_s / early_s, 3),
            "ideal": ideal,
        },
    )


def _seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
