"""What an answer costs, in layers: two measures, one for full batches and one for small ones.

`layers` counts multiplications: every token through every layer, prompts included, with exit heads,
final heads and projected keys at their share of a layer's weights. It bounds large batches.
`calls` counts how often such weights are read, whatever the number of tokens. It bounds small
batches, where reading weights is what takes the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rollout.engine.generation import Generated, TokenExits, probe_layers
from rollout.engine.segments import Segments


@dataclass
class Cost:
    """In layers, of all answers together."""

    layers: float = 0.0
    calls: float = 0.0


def cost(segments: Segments, answers: Sequence[Generated], exits: TokenExits | None) -> Cost:
    """Of answers of our engine, by what it noted."""
    translated = exits is not None and any(h.weight is not None for h in exits.heads.values())
    probe = probe_layers(segments, translator=translated)
    head, fill = probe_layers(segments, translator=False), fill_share(segments)
    total = Cost()
    for answer in answers:
        work = answer.work
        total.layers += work.layers_run + work.prompt_layers + fill * work.filled_layers
        total.layers += probe * work.probes + head * work.full_heads
        # Drafts that stood share the head's call with the token that follows them.
        full_calls = (
            work.full_heads if answer.drafted == 0 else len(answer.tokens) - answer.accepted
        )
        total.calls += work.layer_calls + fill * work.fill_calls
        total.calls += probe * work.probes + head * full_calls
    return total


def fill_share(segments: Segments) -> float:
    """Share of a layer's weights that its queries, keys and values take."""
    layer: Any = segments.loaded.layers[0]
    attention = layer.self_attn
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    whole = sum(weight.numel() for weight in layer.parameters() if weight.dim() > 1)
    return float(sum(part.weight.numel() for part in parts) / whole)


@contextmanager
def counted(segments: Segments) -> Iterator[Cost]:
    """Count what anybody runs on the model meanwhile, one answer at a time."""
    total, head = Cost(), probe_layers(segments, translator=False)

    def layer(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: object) -> None:
        total.layers += args[0].shape[1]
        total.calls += 1

    def unembedding(module: torch.nn.Module, args: tuple[torch.Tensor], output: object) -> None:
        total.layers += head * args[0].shape[1]
        total.calls += head

    handles = [part.register_forward_hook(layer) for part in segments.loaded.layers]
    handles.append(segments.loaded.unembedding.register_forward_hook(unembedding))
    try:
        yield total
    finally:
        for handle in handles:
            handle.remove()
