"""A shadow that continues costs the skipped layers' share of a recomputation, and no more.

Random Llama models, rows that were answered after a quarter, half or three quarters of the layers:
the time of going on from there to the full model's label scores, over the time of computing them
from the tokens. The two take turns.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch

from benchmarks.form import Measured
from benchmarks.full_depth_overhead import TOKENS, random_llama
from rollout.engine.segments import Segments, SegmentState

TOLERANCE = 0.05
LABELS = 8
MODELS = {"d256": (12, 256), "d1024": (24, 1024)}
REPEATS = {("d256", 1): 300, ("d256", 8): 100, ("d256", 32): 24, ("d1024", 1): 16, ("d1024", 8): 6}


def measure(quick: bool) -> Measured:
    torch.set_num_threads(2)
    over = {}
    for name, (layers, width) in MODELS.items():
        segments = random_llama(layers, width)
        for batch in (1, 8, 32):
            repeats = REPEATS.get((name, batch), 0)
            if quick:
                repeats //= 4
            for exit_layer in (layers // 4, layers // 2, 3 * layers // 4):
                if repeats:
                    where = f"{name} batch {batch}, exit at layer {exit_layer}"
                    over[where] = _over(segments, batch, exit_layer, repeats)
    value = max(abs(ratio - 1) for ratio in over.values())
    return Measured(
        name="shadow_continuation",
        value=round(value, 4),
        unit="largest deviation of a continuation's cost from the skipped layers' share",
        bar=f"<= {TOLERANCE}",
        holds=value <= TOLERANCE,
        details={
            "tokens": TOKENS,
            "cost over the skipped layers' share": {k: round(v, 4) for k, v in over.items()},
        },
    )


@torch.inference_mode()
def _over(segments: Segments, batch: int, exit_layer: int, repeats: int) -> float:
    depth = segments.loaded.depth
    label_rows = segments.loaded.unembedding.weight[:LABELS]

    def scores(state: SegmentState) -> torch.Tensor:
        return segments.final_norm(segments.advance(state, depth).last_hidden) @ label_rows.T

    prompts = torch.randint(1, segments.loaded.vocabulary, (batch, TOKENS)).tolist()
    costs = []
    for _ in range(repeats):
        answered = segments.advance(segments.start(prompts), exit_layer)
        began = perf_counter()
        continued = scores(answered)
        between = perf_counter()
        again = scores(segments.start(prompts))
        costs.append((between - began) / (perf_counter() - between))
    if not torch.equal(continued, again):
        raise AssertionError("the continuation gives other scores than the recomputation")
    return median(costs) / ((depth - exit_layer) / depth)
