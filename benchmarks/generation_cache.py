"""What to do with skipped keys and values: deferred (exact) against propagated (CALM).

The same model, prompts, exit heads and thresholds; only the treatment differs. Agreement is per
token with the full model under teacher forcing; layers are token-layers of the answer, with the
catch-up; layer calls are how often weights are read; time is of one answer at a time, in turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.form import Measured
from benchmarks.reference.text_cost import cost
from benchmarks.reference.text_subject import Subject, subject, turns
from rollout.engine.generation import (
    Generated,
    TextRequest,
    TokenExits,
    fit_token_exits,
    generate,
    shadow,
)
from rollout.engine.generation.passes import SkippedKeys

LEVELS = (0.65, 0.8, 0.9, 0.93, 0.95, 0.97, 0.99)
TREATMENTS: tuple[SkippedKeys, ...] = ("deferred", "propagate")
BAR = 1.0


def measure(quick: bool) -> Measured:
    torch.set_num_threads(2)
    about = subject(quick)
    fitted, _ = fit_token_exits(
        about.segments, about.fitting, about.candidates, agreement=0.98, steps=30 if quick else 200
    )
    full = generate(about.segments, about.asked)
    table = []
    for level in LEVELS[::3] if quick else LEVELS:
        for treatment in TREATMENTS:
            exits = _exits(fitted, level, treatment)
            answers = generate(about.segments, about.asked, exits)
            table.append(
                {"threshold": level, "treatment": treatment} | _figures(about, answers, full, exits)
            )
    level = _chosen(table)
    seconds = _time(about, fitted, level, 3 if quick else 6)
    value = seconds["deferred"] / seconds["full"]
    at = {row["treatment"]: row for row in table if row["threshold"] == level}
    better = at["deferred"]["agreement"] >= at["propagate"]["agreement"]
    return Measured(
        name="generation_cache",
        value=round(value, 3),
        unit="time of an answer with deferred catch-up over full depth",
        bar=f"< {BAR}, and it agrees at least as well as propagated keys",
        holds=value < BAR and better,
        details={
            "model": about.name,
            "exit layers": fitted.layers,
            "threshold timed": level,
            "time over full": {name: round(s / seconds["full"], 3) for name, s in seconds.items()},
            "answers": len(about.asked),
            "by threshold": table,
        },
    )


def _figures(
    about: Subject, answers: list[Generated], full: list[Generated], exits: TokenExits
) -> dict[str, Any]:
    """Agreement with the full model, and what the answers cost."""
    compared = shadow(about.segments, about.asked, answers, [a.text for a in full])
    tokens = sum(len(answer.tokens) for answer in answers)
    by_token = [same for found in compared for same in found.by_token]
    spent, whole = cost(about.segments, answers, exits), cost(about.segments, full, None)
    return {
        "agreement": round(float(np.mean(by_token)), 4),
        "exact": round(float(np.mean([found.exact for found in compared])), 3),
        "chrF": round(float(np.mean([found.similarity for found in compared])), 3),
        "layers/token": round(sum(a.work.layers_run for a in answers) / tokens, 2),
        "filled/token": round(sum(a.work.filled_layers for a in answers) / tokens, 2),
        "calls/token": round(sum(a.work.layer_calls for a in answers) / tokens, 2),
        "all layers over full": round(spent.layers / whole.layers, 3),
        "all calls over full": round(spent.calls / whole.calls, 3),
    }


def _exits(fitted: TokenExits, level: float, treatment: SkippedKeys) -> TokenExits:
    return replace(fitted, thresholds=(level,) * len(fitted.layers), skipped_keys=treatment)


def _chosen(table: list[dict[str, Any]]) -> float:
    """The lowest threshold at which deferred answers agree to 98 %, else the highest."""
    good = [
        row["threshold"]
        for row in table
        if row["treatment"] == "deferred" and row["agreement"] >= 0.98
    ]
    return float(min(good, default=max(row["threshold"] for row in table)))


def _time(about: Subject, fitted: TokenExits, level: float, prompts: int) -> dict[str, float]:
    """Seconds of answering one by one, the three ways taking turns on the same prompts."""

    def run(exits: TokenExits | None, request: TextRequest) -> None:
        generate(about.segments, [request], exits)

    ways: dict[str, Callable[[TextRequest], None]] = {"full": partial(run, None)}
    for treatment in TREATMENTS:
        ways[treatment] = partial(run, _exits(fitted, level, treatment))
    return turns(ways, about.asked[:prompts])
