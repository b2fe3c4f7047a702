"""Takes tokens through segments of layers; completes, exactly or roughly, what they left waiting.

`deferred`: when a token goes past an exit, all tokens that wait there go with it in one pass, as
the full model would have computed them. The cache is then the full model's.
`propagate`: those tokens only get keys and values, projected by each skipped layer from the hidden
state they exited with (Schuster et al. 2022, CALM, section 3.5: cheaper, no longer the full
model's cache). Prompts are always completed exactly, in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rollout.engine.generation.lanes import Filled, Lanes, Window
from rollout.engine.segments import Segments, SegmentState

SkippedKeys = Literal["deferred", "propagate"]


@dataclass
class Work:
    """What one request has cost so far.

    Attributes:
        layers_run: Token-layers of the answer: catch-up and rejected drafts included. The prompt's
            last token counts here, since it gives the answer's first token.
        prompt_layers: Token-layers of the rest of the prompt.
        filled_layers: Token-layers of which only keys and values were computed.
        layer_calls: Layer calls that the request took part in, whatever the number of tokens.
        fill_calls: The same, where only keys and values were computed.
        probes: Exit heads asked.
        full_heads: Positions at which the full model's head was asked.
        shadow_layers: Token-layers run after the answer, for its comparison only.
    """

    layers_run: int = 0
    prompt_layers: int = 0
    filled_layers: int = 0
    layer_calls: int = 0
    fill_calls: int = 0
    probes: int = 0
    full_heads: int = 0
    shadow_layers: int = 0


class Passes:
    """Segments of layers over the lanes of one batch.

    Args:
        boundaries: Layers run before each exit, rising, then the depth.
        keep_final: Keep the hidden states after the last layer, too.
    """

    def __init__(
        self,
        segments: Segments,
        boundaries: Sequence[int],
        prompts: Sequence[Sequence[int]],
        skipped_keys: SkippedKeys,
        keep_final: bool,
    ) -> None:
        self.segments = segments
        self.layers = list(zip([0, *boundaries], boundaries, strict=False))
        self.lanes = Lanes(prompts, len(self.layers), segments.loaded.device)
        self.prompt_tokens = [len(prompt) for prompt in prompts]
        self.skipped_keys = skipped_keys
        self.keep_final = keep_final
        self._begun: tuple[tuple[tuple[int, ...], int, int], SegmentState] | None = None

    @torch.inference_mode()
    def append(self, tokens: Sequence[int]) -> None:
        self._begun = None
        self.lanes.append(tokens)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        self._begun = None
        self.lanes.keep(rows)
        self.prompt_tokens = [self.prompt_tokens[row] for row in rows]

    @torch.inference_mode()
    def take_back(self, counts: Sequence[int]) -> None:
        self._begun = None
        self.lanes.take_back(counts)

    @torch.inference_mode()
    def run(
        self, rows: Sequence[int], segment: int, work: Sequence[Work] | Mapping[int, Work]
    ) -> Tensor:
        """Bring all columns of these rows that wait before a segment through it.

        Args:
            work: Of each lane; the rows' share is added.

        Returns:
            The newest columns' hidden states after it, [rows, columns, width].
        """
        done, newest = self.lanes.done[segment], self.lanes.columns - 1
        if self.skipped_keys == "propagate":
            prompts = [row for row in rows if done[row] < self._answer(row) <= newest]
            if prompts:
                # Without rejected drafts all answers start at one column.
                self._run(prompts, segment, self._answer(prompts[0]), work)
            behind = [row for row in rows if done[row] < newest >= self._answer(row)]
            if behind:
                self._run(behind, segment, newest, work, fill=True)
        return self._run(rows, segment, newest + 1, work)

    def final(self, row: int) -> Tensor:
        """A row's hidden states after the last layer, where they are kept, [columns, width]."""
        self.lanes.window = Window(self._index([row]), self.lanes.starts[row], self.lanes.columns)
        return self.lanes.read("waiting", len(self.layers))[0]

    def _run(
        self,
        rows: Sequence[int],
        segment: int,
        end: int,
        work: Sequence[Work] | Mapping[int, Work],
        fill: bool = False,
    ) -> Tensor:
        lanes, done = self.lanes, self.lanes.done[segment]
        from_layer, to_layer = self.layers[segment]
        first = min(done[row] for row in rows)
        lanes.window = Window(
            self._index(rows), first, end, self._valid(rows, done, first, end), fill
        )
        state = self._begin(rows, first, end)
        hidden = state.hidden if segment == 0 else lanes.read("waiting", segment)
        state = replace(state, hidden=hidden, layer=from_layer)
        if fill:
            for layer in range(from_layer, to_layer):
                with suppress(Filled):
                    self.segments.advance(replace(state, layer=layer), layer + 1)
        else:
            hidden = self.segments.advance(state, to_layer).hidden
        if to_layer < self.segments.loaded.depth or self.keep_final:
            lanes.write("waiting", segment + 1, hidden)
        for row in rows:
            self._count(work[row], row, max(done[row], lanes.starts[row]), end, segment, fill)
            done[row] = end
        return hidden

    def _begin(self, rows: Sequence[int], first: int, end: int) -> SegmentState:
        """Embedding, masks and rotary angles of a window; the next segment often asks the same."""
        key = (tuple(rows), first, end)
        if self._begun is None or self._begun[0] != key:
            device, mask = self.lanes.device, None
            positions = torch.arange(first, end, device=device)[None]
            # Without padding no mask is given: attention then takes its fastest way.
            if any(self.lanes.starts[row] for row in rows):
                starts = torch.tensor([[self.lanes.starts[row]] for row in rows], device=device)
                mask = torch.arange(end, device=device) >= starts
                positions = (positions - starts).clamp(min=0)
            tokens = self.lanes.read("tokens", 0)
            self._begun = key, self.segments.record(tokens, mask, positions, self.lanes)
        return self._begun[1]

    def _index(self, rows: Sequence[int]) -> Tensor | None:
        if len(rows) == self.lanes.rows:
            return None
        return torch.tensor(rows, dtype=torch.long, device=self.lanes.device)

    def _valid(
        self, rows: Sequence[int], done: Sequence[int], first: int, end: int
    ) -> Tensor | None:
        counts = [done[row] for row in rows]
        if max(counts) == first:
            return None
        waits = torch.arange(first, end) >= torch.tensor(counts)[:, None]
        return waits.to(self.lanes.device)

    def _answer(self, row: int) -> int:
        """The column of the answer's first token."""
        return self.lanes.starts[row] + self.prompt_tokens[row]

    def _count(self, work: Work, row: int, first: int, end: int, segment: int, fill: bool) -> None:
        layers = self.layers[segment][1] - self.layers[segment][0]
        prompt = max(0, min(end, self._answer(row) - 1) - first)
        answer = end - first - prompt
        if fill:
            work.fill_calls += layers
            work.filled_layers += answer * layers
        else:
            work.layer_calls += layers
            work.prompt_layers += prompt * layers
            work.layers_run += answer * layers
