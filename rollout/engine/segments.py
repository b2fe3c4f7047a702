"""The layer loop as one object: start a batch, advance it to a layer, compact it, continue later.

Masks, rotary embeddings and every other argument of a layer come from the model's own forward:
a twin without weights, whose layers only note what they are called with, runs it once a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from rollout.engine.loading import LoadedModel
from rollout.engine.prefix import Prefix, PrefixCache
from rollout.engine.prompts import check_prompts

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""What a layer is called with besides the hidden states: positional and keyword arguments."""

_DONE: Call = ((), {})

KNOWN_SHAPES = 64
"""Shapes of unpadded batches for which the layers' arguments are kept."""


@dataclass(frozen=True)
class SegmentState:
    """A batch between two layers.

    Attributes:
        hidden: Residual stream after `layer` layers, [rows, tokens, width].
        layer: Layers run so far.
        calls: What the model's own forward calls each layer with.
        prompts: The rows' tokens without padding; empty where `record` was called directly.
        prefix: What stands before every prompt, if anything.
        cache: What the layers' keys and values are kept in, if anything.
    """

    hidden: Tensor
    layer: int
    calls: tuple[Call, ...]
    prompts: tuple[Sequence[int], ...] = ()
    prefix: Prefix | None = None
    cache: Cache | None = None

    @property
    def rows(self) -> int:
        return self.hidden.shape[0]

    @property
    def last_hidden(self) -> Tensor:
        """Hidden state at the last token (prompts are padded on the left), [rows, width]."""
        return self.hidden[:, -1]


class Segments:
    """Runs a loaded model layer by layer. Not thread-safe: one engine, one thread at a time.

    Layers run as they are, uncompiled: on a processor torch.compile took 48 s a shape for 1.45
    times the speed at batch 1 and 1.2 times at batch 8, and every shape of a batch is another.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._layers = tuple(loaded.layers)
        self._calls: list[Call] = []
        parts = loaded.parts
        twin = copy.copy(parts.decoder)
        twin._modules = dict(parts.decoder._modules)
        stand_ins: dict[str, Any] = {
            parts.family.layers: [self._note] * loaded.depth,
            parts.family.norm: _unchanged,
        }
        if "project_out" in twin._modules:
            stand_ins["project_out"] = None
        # Past nn.Module's own bookkeeping: a plain list is sliced without building modules.
        twin._modules.update(stand_ins)
        self._twin = twin
        self._embedding = loaded.model.get_input_embeddings()
        self._known: dict[torch.Size, tuple[Call, ...]] = {}

    def _note(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Stands for every decoder layer in the twin: notes its arguments, computes nothing."""
        self._calls.append((args, kwargs))
        return hidden_states

    @torch.inference_mode()
    def start(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        cache: Cache | None = None,
        prefix: Prefix | None = None,
    ) -> SegmentState:
        """Embed a batch of token id sequences, padded on the left; no layer is run yet.

        Args:
            cache: An empty cache, which `advance` fills layer by layer.
            prefix: What stands before every prompt, from `cache_prefix`.

        Raises:
            ValueError: an empty batch, an empty prompt, both a cache and a prefix.
            BadRequest: more tokens than the context takes, or a token outside the vocabulary.
        """
        if not prompts or not all(prompts):
            raise ValueError("a batch needs at least one prompt, and a prompt at least one token")
        if cache is not None and (prefix is not None or cache.get_seq_length()):
            raise ValueError("a cache must be empty, and stands alone: continue it with record()")
        check_prompts(self.loaded, prompts, 0 if prefix is None else len(prefix.tokens))
        lengths = [len(prompt) for prompt in prompts]
        tokens = self.padded(prompts, lengths)
        mask = positions = None
        # Unpadded rows need neither, and without a mask attention takes its fastest way.
        if min(lengths) < max(lengths):
            mask, positions = self.mask(lengths, prefix)
        past = cache if prefix is None else PrefixCache(prefix, lengths)
        known = self._known.get(tokens.shape) if mask is None and past is None else None
        if known is not None:
            return SegmentState(self._embedding(tokens), 0, known, tuple(prompts))
        state = self.record(tokens, mask, positions, past)
        if mask is None and past is None and torch.equal(state.hidden, self._embedding(tokens)):
            # Nothing but the shape decides what the layers are called with: asking once is enough.
            if len(self._known) == KNOWN_SHAPES:
                self._known.pop(next(iter(self._known)))
            self._known[tokens.shape] = state.calls
        return replace(state, prompts=tuple(prompts), prefix=prefix, cache=cache)

    @torch.inference_mode()
    def record(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Any = None,
    ) -> SegmentState:
        """Embed tokens and note what the model's own forward calls its layers with.

        Args:
            tokens: [rows, new tokens].
            mask: 1 where a token counts, [rows, cached + new tokens]; None: all count.
            positions: [rows, new tokens]; None: counted on from the cache.
            cache: Anything that speaks transformers' cache protocol.
        """
        self._calls.clear()
        output = self._twin(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return SegmentState(output.last_hidden_state, 0, tuple(self._calls))

    @torch.inference_mode()
    def advance(
        self,
        state: SegmentState,
        to_layer: int,
        visit: Callable[[int, Tensor], None] | None = None,
    ) -> SegmentState:
        """Run the layers after `state.layer` up to and including `to_layer`.

        Args:
            visit: Called after each of them with its number and the hidden states.
        """
        if not state.layer <= to_layer <= self.loaded.depth:
            raise ValueError(f"cannot advance from layer {state.layer} to {to_layer}")
        hidden = state.hidden
        for index in range(state.layer, to_layer):
            args, kwargs = state.calls[index]
            hidden = self._layers[index](hidden, *args, **kwargs)
            if visit is not None:
                visit(index + 1, hidden)
        return replace(state, hidden=hidden, layer=to_layer)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """Hidden states as the unembedding takes them, [..., width] to [..., embedding width]."""
        normed = self.loaded.norm(hidden)
        assert isinstance(normed, Tensor)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits of hidden states after a layer, [..., width] to [..., vocabulary]."""
        return self.loaded.capped(self.loaded.unembedding(self.final_norm(hidden)))

    @torch.inference_mode()
    def finish(self, state: SegmentState) -> Tensor:
        """The model's own logits at the last token, [rows, vocabulary].

        Raises:
            ValueError: layers are left to run.
        """
        if state.layer != self.loaded.depth:
            raise ValueError(f"{state.layer} of {self.loaded.depth} layers are run: advance first")
        return self.logits(state.last_hidden)

    @torch.inference_mode()
    def compact(self, state: SegmentState, keep: Sequence[int]) -> SegmentState:
        """Keep only these rows, in this order: the others have left the batch.

        Leading columns that only they needed go too, once that saves a layer's work: the twin then
        prepares the narrower batch anew. A cache keeps the same rows.
        """
        index = torch.tensor(keep, dtype=torch.long, device=state.hidden.device)
        prompts = tuple(state.prompts[row] for row in keep) if state.prompts else ()
        if prompts and state.cache is None:
            unused = state.hidden.shape[1] - max(len(prompt) for prompt in prompts)
            if unused * (self.loaded.depth - state.layer) >= state.hidden.shape[1]:
                hidden = state.hidden[:, unused:].index_select(0, index)
                narrower = self.start(prompts, prefix=state.prefix)
                return replace(narrower, hidden=hidden, layer=state.layer)
        gathered: dict[int, Any] = {}

        def gather(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(gather(item) for item in value)
            # One-dimensional tensors run over tokens, never over rows.
            rowwise = isinstance(value, Tensor) and value.dim() > 1 and len(value) == state.rows
            if not rowwise and not isinstance(value, PrefixCache):
                return value
            if id(value) not in gathered:
                gathered[id(value)] = (
                    value.index_select(0, index) if rowwise else value.select(keep)
                )
            return gathered[id(value)]

        remaining = tuple(
            (gather(args), {name: gather(value) for name, value in kwargs.items()})
            for args, kwargs in state.calls[state.layer :]
        )
        if state.cache is not None:
            state.cache.batch_select_indices(index)
        return replace(
            state,
            hidden=state.hidden.index_select(0, index),
            calls=(_DONE,) * state.layer + remaining,
            prompts=prompts,
        )

    def split(self, state: SegmentState, rows: Sequence[int]) -> tuple[SegmentState, SegmentState]:
        """These rows, and the others in their order; each goes on by itself.

        Raises:
            ValueError: the state fills a cache, which cannot be in two states.
        """
        if state.cache is not None:
            raise ValueError("a state that fills a cache cannot be split")
        chosen = set(rows)
        others = [row for row in range(state.rows) if row not in chosen]
        return self.compact(state, rows), self.compact(state, others)

    @torch.inference_mode()
    def cache_prefix(self, tokens: Sequence[int]) -> Prefix:
        """Keys and values of the tokens that many prompts begin with, at full depth.

        Raises:
            ValueError: no token.
            BadRequest: they leave no room in the context.
        """
        cache = DynamicCache()
        self.advance(self.start([tokens], cache=cache), self.loaded.depth)
        kept = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr]
        return Prefix.of(tokens, kept)

    def padded(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
        longest = max(lengths)
        pad = [self.loaded.tokenizer.pad_token_id] * longest
        rows = [[*pad[length:], *prompt] for length, prompt in zip(lengths, prompts, strict=True)]
        return torch.tensor(rows, dtype=torch.long, device=self.loaded.device)

    def mask(self, lengths: Sequence[int], prefix: Prefix | None = None) -> tuple[Tensor, Tensor]:
        """Where tokens count, [rows, prefix + tokens], and the suffixes' positions."""
        before = 0 if prefix is None else len(prefix.tokens)
        padding = max(lengths) - torch.tensor(lengths)[:, None]
        columns = torch.arange(before + max(lengths))
        mask = (columns >= padding).long()
        # Counting from the first real token keeps a row's numbers free of its batch's padding.
        positions = (columns[before:] - padding).clamp(min=0)
        return mask.to(self.loaded.device), positions.to(self.loaded.device)


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden
