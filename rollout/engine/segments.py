"""The layer loop as one object: start a batch, advance it to a layer, compact it, continue later.

Masks, rotary embeddings and every other argument of a layer come from the model's own forward:
a twin without weights, whose layers only note what they are called with, runs it once a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rollout.engine.loading import MAX_DIFFERENCE, LoadedModel, ModelRefused


@dataclass(frozen=True)
class SegmentState:
    """A batch between two layers.

    Attributes:
        hidden: Residual stream after `layer` layers, [rows, tokens, width].
        layer: Layers run so far.
        calls: Keyword arguments of each layer, as the model's own forward passes them.
    """

    hidden: Tensor
    layer: int
    calls: tuple[dict[str, Any], ...]

    @property
    def rows(self) -> int:
        return self.hidden.shape[0]

    @property
    def last_hidden(self) -> Tensor:
        """Hidden state at the last token (prompts are padded on the left), [rows, width]."""
        return self.hidden[:, -1]


class _NotingLayer(nn.Module):
    """Stands for a decoder layer in the twin: notes its arguments, computes nothing."""

    def __init__(self, layer: nn.Module, calls: list[dict[str, Any]]) -> None:
        super().__init__()
        # Families that mix attention kinds pick the mask by the layer's own attribute.
        if hasattr(layer, "attention_type"):
            self.attention_type = layer.attention_type
        self.calls = calls

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        self.calls.append(kwargs)
        return hidden_states


class Segments:
    """Runs a loaded model layer by layer. Not thread-safe: one engine, one thread at a time."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._calls: list[dict[str, Any]] = []
        twin = copy.copy(loaded.base)
        twin._modules = dict(loaded.base._modules)
        twin._modules["layers"] = nn.ModuleList(
            _NotingLayer(layer, self._calls) for layer in loaded.layers
        )
        twin._modules["norm"] = nn.Identity()
        self._twin = twin

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> SegmentState:
        """Embed a batch of token id sequences, padded on the left; no layer is run yet."""
        if not prompts or any(not prompt for prompt in prompts):
            raise ValueError("a batch needs at least one prompt, and a prompt at least one token")
        tokens, mask = self._pad(prompts)
        self._calls.clear()
        output = self._twin(
            input_ids=tokens,
            attention_mask=mask,
            # Counting from the first real token keeps a row's numbers free of its batch's padding.
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
        )
        return SegmentState(output.last_hidden_state, 0, tuple(self._calls))

    @torch.inference_mode()
    def advance(self, state: SegmentState, to_layer: int) -> SegmentState:
        """Run the layers after `state.layer` up to and including `to_layer`."""
        if not state.layer <= to_layer <= self.loaded.depth:
            raise ValueError(f"cannot advance from layer {state.layer} to {to_layer}")
        hidden = state.hidden
        for index in range(state.layer, to_layer):
            hidden = self.loaded.layers[index](hidden, **state.calls[index])
        return replace(state, hidden=hidden, layer=to_layer)

    @torch.inference_mode()
    def compact(self, state: SegmentState, keep: Sequence[int]) -> SegmentState:
        """Keep only these rows, in this order: the others have left the batch."""
        index = torch.tensor(keep, dtype=torch.long, device=state.hidden.device)
        gathered: dict[int, Tensor] = {}

        def gather(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(gather(item) for item in value)
            # One-dimensional tensors run over tokens, never over rows.
            if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[0] != state.rows:
                return value
            if id(value) not in gathered:
                gathered[id(value)] = value.index_select(0, index)
            return gathered[id(value)]

        remaining = tuple(
            {name: gather(value) for name, value in call.items()} if number >= state.layer else call
            for number, call in enumerate(state.calls)
        )
        return SegmentState(state.hidden.index_select(0, index), state.layer, remaining)

    def _pad(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        longest = max(len(prompt) for prompt in prompts)
        pad = self.loaded.tokenizer.pad_token_id
        tokens = torch.full((len(prompts), longest), pad, dtype=torch.long)
        mask = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        return tokens.to(self.loaded.device), mask.to(self.loaded.device)


@torch.inference_mode()
def check_exactness(segments: Segments, *, seed: int = 0) -> float:
    """Compare the loop, run to the last layer, with `model()` on a left-padded random batch.

    Returns:
        The largest difference of a last-token logit, relative to the largest logit.

    Raises:
        ModelRefused: the difference exceeds `MAX_DIFFERENCE` for the model's dtype.
    """
    loaded = segments.loaded
    generator = torch.Generator().manual_seed(seed)
    lengths = [min(length, loaded.context_tokens) for length in (12, 7, 3)]
    vocabulary = int(loaded.model.config.vocab_size)
    prompts = [torch.randint(vocabulary, (n,), generator=generator).tolist() for n in lengths]
    state = segments.advance(segments.start(prompts), loaded.depth)
    ours = loaded.unembedding(loaded.norm(state.last_hidden)).float()
    tokens, mask = segments._pad(prompts)
    theirs = loaded.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, -1]
    theirs = theirs.float()
    difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))
    allowed = MAX_DIFFERENCE[loaded.model.dtype]
    if not difference <= allowed:
        raise ModelRefused(
            f"the layer loop differs from the model's own forward by {difference:.2e} of the "
            f"largest logit (at most {allowed:.0e} is allowed): this model cannot be served early"
        )
    return difference
