"""Realised over ideal speed-up where all rows exit after half of the layers.

Random Llamas, rows of one length, one exit with its head asked. Ideal: the layers not run cost
nothing and the probe is free, so half of the time; what both have to do (embedding, masks) counts
against us.
"""

from __future__ import annotations

import torch

from benchmarks.form import Measured
from benchmarks.steered import (
    BATCHES,
    SHAPES,
    WORDS,
    alternated,
    answer,
    check_exits,
    pairs,
    random_llama,
    steered,
    texts,
)

BAR = 0.95


def measure(quick: bool) -> Measured:
    torch.set_num_threads(2)
    cases: dict[str, float] = {}
    for name, (layers, width) in SHAPES.items():
        subject = random_llama(layers, width)
        for rows in BATCHES:
            if quick and width > 256 and rows > 1:
                continue
            prompts = [subject.task.encode(text) for text in texts([WORDS] * rows)]
            exits = [layers // 2] * rows
            steering = steered(subject, prompts, exits, [layers // 2])
            check_exits(answer(subject, prompts, steering, may_exit=True), exits)
            speedup = alternated(
                lambda: answer(subject, prompts, None, may_exit=False),  # noqa: B023
                lambda: answer(subject, prompts, steering, may_exit=True),  # noqa: B023
                pairs(width, rows, quick),
            )
            cases[f"{name}, batch {rows}"] = round(speedup / 2, 4)
    value = min(cases.values())
    return Measured(
        name="realised_speedup",
        value=value,
        unit="realised over ideal speed-up, worst case",
        bar=f">= {BAR}",
        holds=value >= BAR,
        details=cases | {"tokens": WORDS + 1, "threads": 2},
    )
