"""Full depth with a trace at every layer, against full depth without.

Random Llamas; a label head after every layer but the last, judged by the features of the learned
criterion, which needs the exit before. Nobody may exit, as in stage 0.
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
    pairs,
    random_llama,
    steered,
    texts,
)

BAR = 1.05


def measure(quick: bool) -> Measured:
    torch.set_num_threads(2)
    cases: dict[str, float] = {}
    for name, (layers, width) in SHAPES.items():
        subject = random_llama(layers, width)
        for rows in BATCHES:
            if quick and width > 256 and rows > 1:
                continue
            prompts = [subject.task.encode(text) for text in texts([WORDS] * rows)]
            every = range(1, layers)
            steering = steered(subject, prompts, [layers] * rows, every)
            ratio = alternated(
                lambda: answer(subject, prompts, steering, may_exit=False),  # noqa: B023
                lambda: answer(subject, prompts, None, may_exit=False),  # noqa: B023
                pairs(width, rows, quick),
            )
            cases[f"{name}, batch {rows}"] = round(ratio, 4)
    value = max(cases.values())
    return Measured(
        name="trace_overhead",
        value=value,
        unit="time with traces at every layer over time without, worst case",
        bar=f"<= {BAR}",
        holds=value <= BAR,
        details=cases | {"tokens": WORDS + 1, "threads": 2},
    )
