"""Full depth through the layer loop costs what transformers' own forward costs.

Random Llama models, no exit heads, no cache; both give the logits of the last position only. At
d=256 and batch 1, where Python is a large part of a layer, the loop must be the quicker one.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.form import Measured
from rollout.engine.exactness import relative_difference
from rollout.engine.loading import LoadedModel
from rollout.engine.segments import Segments

BAR = 1.02
TOKENS = 24
MODELS = {"d256": (12, 256), "d1024": (24, 1024)}
REPEATS = {("d256", 1): 400, ("d256", 8): 100, ("d256", 32): 30}
"""Of the others: `FEW`. They take seconds each."""
FEW = {1: 12, 8: 6, 32: 4}


def measure(quick: bool) -> Measured:
    torch.set_num_threads(2)
    ratios = {}
    for name, (layers, width) in MODELS.items():
        segments = random_llama(layers, width)
        for batch in (1, 8, 32):
            repeats = REPEATS.get((name, batch), FEW[batch])
            if quick:
                repeats = max(1, repeats // 4)
                if (name, batch) == ("d1024", 32):
                    continue
            ratios[f"{name} batch {batch}"] = round(_ratio(segments, batch, repeats), 4)
    value = max(ratios.values())
    return Measured(
        name="full_depth_overhead",
        value=value,
        unit="time of the layer loop over transformers' own forward, the largest",
        bar=f"<= {BAR}, and below 1 at d256 batch 1",
        holds=value <= BAR and ratios["d256 batch 1"] < 1,
        details={"tokens": TOKENS, "median ratio of pairs that took turns": ratios},
    )


def random_llama(layers: int, width: int) -> Segments:
    """The layer loop over a Llama of random weights with 64 values a head."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
    )
    model = LlamaForCausalLM(config).train(False).requires_grad_(False)
    # Prompts are token ids already: of a tokenizer only the padding is needed.
    tokenizer = cast(Any, SimpleNamespace(pad_token_id=0))
    return Segments(LoadedModel(model, tokenizer, ""))


@torch.inference_mode()
def _ratio(segments: Segments, batch: int, repeats: int) -> float:
    loaded = segments.loaded
    prompts = torch.randint(1, loaded.vocabulary, (batch, TOKENS)).tolist()
    tokens = torch.tensor(prompts)
    mask = torch.ones_like(tokens)

    def ours() -> torch.Tensor:
        return segments.finish(segments.advance(segments.start(prompts), loaded.depth))

    def theirs() -> torch.Tensor:
        output = loaded.model(tokens, attention_mask=mask, use_cache=False, logits_to_keep=1)
        return cast(torch.Tensor, output.logits[:, -1])

    if relative_difference(ours(), theirs()) > 1e-5:
        raise AssertionError("the two give different logits: there is nothing to compare")
    # They take turns, and who begins alternates, so that noise falls on both.
    pairs = []
    for turn in range(repeats):
        first, second = (ours, theirs) if turn % 2 else (theirs, ours)
        times = (_seconds(first), _seconds(second))
        pairs.append(times if turn % 2 else times[::-1])
    return median(our_s / their_s for our_s, their_s in pairs)


def _seconds(run: Callable[[], torch.Tensor]) -> float:
    started = perf_counter()
    run()
    return perf_counter() - started
