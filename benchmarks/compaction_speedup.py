"""Realised over ideal speed-up where rows of mixed lengths exit all along 25 to 100 % of the depth.

Random Llamas, batch 32, 8 to 40 tokens, a head asked at every layer from a quarter of the depth on.
Ideal: full depth of the batch as it came, padded, times the share of the tokens' layers that are
run; probes and gathers free. What rebatching saves of the padding counts for us there. The stricter
figures, against full depth that is itself divided by length, stand beside it.
"""

from __future__ import annotations

import math
from random import Random

import torch

from benchmarks.form import Measured
from benchmarks.steered import (
    SHAPES,
    alternated,
    answer,
    check_exits,
    random_llama,
    steered,
    texts,
)
from rollout.engine.costs import LoopCosts

ROWS = 32
SHORTEST, LONGEST = 8, 40
AS_IT_CAME = LoopCosts(call_ms=math.inf, token_ms=0.0, gather_ms=0.0)
"""Nothing is divided where a batch more costs so much."""
BAR = 0.95


def measure(quick: bool) -> Measured:
    torch.set_num_threads(2)
    cases: dict[str, float] = {}
    for name, (layers, width) in SHAPES.items():
        if quick and width > 256:
            continue
        subject = random_llama(layers, width)
        random = Random(0)
        lengths = [random.randint(SHORTEST, LONGEST) - 1 for _ in range(ROWS)]
        prompts = [subject.task.encode(text) for text in texts(lengths)]
        depths = range(layers // 4, layers + 1)
        exits = [depths[row * len(depths) // ROWS] for row in range(ROWS)]
        random.shuffle(exits)
        steering = steered(subject, prompts, exits, depths[:-1])
        check_exits(answer(subject, prompts, steering, may_exit=True), exits)
        pairs = max((25 if width == 256 else 5) // (4 if quick else 1), 3)
        speedup, strict = (
            alternated(
                lambda: answer(subject, prompts, None, may_exit=False, costs=costs),  # noqa: B023
                lambda: answer(subject, prompts, steering, may_exit=True),  # noqa: B023
                pairs,
            )
            for costs in (AS_IT_CAME, None)
        )
        run = sum(
            exit_ * len(prompt[0]) for exit_, prompt in zip(exits, prompts, strict=True)
        ) / sum(layers * len(prompt[0]) for prompt in prompts)
        cases[name] = round(speedup * run, 4)
        cases[f"{name}: against full depth divided by length"] = round(strict * run, 4)
        cases[f"{name}: share of the layers run"] = round(run, 4)
    value = min(figure for case, figure in cases.items() if case in SHAPES)
    return Measured(
        name="compaction_speedup",
        value=value,
        unit="realised over ideal speed-up, worst case",
        bar=f">= {BAR}",
        holds=value >= BAR,
        details=cases | {"rows": ROWS, "tokens": [SHORTEST, LONGEST], "threads": 2},
    )
