"""What a batch of answers in progress keeps: keys, values, and the hidden states that wait.

Every row is a lane that ends at the same column; a shorter lane starts later, as with padding on
the left. A token that exits early leaves its hidden state waiting before the layers it skipped.
Within a lane the columns completed by a layer are always a prefix, so what waits is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FIRST_SPARE = 32
"""Columns a buffer has to spare when it is made; it doubles when they are used up."""


class Filled(Exception):  # noqa: N818 - no error: it ends a layer whose keys and values are kept
    """The layer's keys and values are written, and nothing else of it was wanted."""


@dataclass(frozen=True)
class Window:
    """Columns [first, end) of some rows, about to pass through layers.

    Attributes:
        rows: Lane numbers; None: all of them, in order.
        valid: The columns each row really waits with, [rows, end - first]; None: all.
        fill: End each layer as soon as its keys and values are written.
    """

    rows: Tensor | None
    first: int
    end: int
    valid: Tensor | None = None
    fill: bool = False


class Lanes:
    """The state of a batch between two steps; also the cache that layers write to.

    `get_seq_length`, `get_query_offset`, `get_mask_sizes` and `update` are transformers' cache
    protocol. Layers with a sliding window keep all columns too: their masks limit what they see.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], segments: int, device: torch.device
    ) -> None:
        self.device = device
        self.columns = max(len(prompt) for prompt in prompts)
        self.starts = [self.columns - len(prompt) for prompt in prompts]
        self.done = [[0] * len(prompts) for _ in range(segments)]
        """Columns that each segment has completed, [segments][rows]."""
        tokens = torch.zeros((len(prompts), self.columns + FIRST_SPARE), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens[row, self.starts[row] : self.columns] = torch.tensor(prompt)
        # Every buffer is [rows, capacity, ...], so that rows and columns move in all of them alike.
        self._buffers: dict[tuple[str, int], Tensor] = {("tokens", 0): tokens.to(device)}
        self.window = Window(None, 0, self.columns)

    @property
    def rows(self) -> int:
        return len(self.starts)

    def append(self, tokens: Sequence[int]) -> None:
        """Add a column: the token that each row goes on from."""
        capacity = self._buffers["tokens", 0].shape[1]
        if self.columns == capacity:
            self._change(lambda buffer: torch.cat([buffer, torch.zeros_like(buffer)], 1))
        self._buffers["tokens", 0][:, self.columns] = torch.tensor(tokens, device=self.device)
        self.columns += 1

    def keep(self, rows: Sequence[int]) -> None:
        """Let only these rows go on."""
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        self._change(lambda buffer: buffer.index_select(0, index))
        self.starts = [self.starts[row] for row in rows]
        self.done = [[done[row] for row in rows] for done in self.done]
        self._trim()

    def take_back(self, counts: Sequence[int]) -> None:
        """Remove the last columns of each row (rejected drafts) and align the lanes again."""
        ends = [self.columns - count for count in counts]
        self.columns = max(ends)
        for row, end in enumerate(ends):
            shift = self.columns - end
            if shift:
                for buffer in self._buffers.values():
                    buffer[row, shift : end + shift] = buffer[row, :end].clone()
            self.starts[row] += shift
            for done in self.done:
                done[row] = min(done[row], end) + shift
        self._trim()

    def read(self, kind: str, number: int) -> Tensor:
        """The window's columns of a buffer, [rows, end - first, ...]."""
        return self._of_rows(self._buffers[kind, number])[:, self.window.first : self.window.end]

    def write(self, kind: str, number: int, values: Tensor) -> None:
        """Put values [rows, end - first, ...] into the window's columns where they are valid."""
        window = self.window
        if (kind, number) not in self._buffers:
            capacity = self._buffers["tokens", 0].shape[1]
            # Zeros, since a masked column still meets its weight of nought.
            self._buffers[kind, number] = values.new_zeros(self.rows, capacity, *values.shape[2:])
        buffer = self._buffers[kind, number]
        if window.valid is not None:
            valid = window.valid.reshape(*window.valid.shape, *[1] * (values.dim() - 2))
            values = torch.where(valid, values, self.read(kind, number))
        rows = slice(None) if window.rows is None else window.rows
        buffer[rows, window.first : window.end] = values

    def get_seq_length(self, layer: int = 0) -> int:
        return self.window.first

    def get_query_offset(self, layer: int = 0) -> int:
        return self.window.first

    def get_mask_sizes(self, query_length: int, layer: int) -> tuple[int, int]:
        """Keys a query may meet, and the column of the first of them."""
        return self.window.end, 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Keep keys and values [rows, heads, end - first, head width]; return them from column 0.

        Raises:
            Filled: the window asks for nothing else.
        """
        self.write("keys", layer, keys.transpose(1, 2))
        self.write("values", layer, values.transpose(1, 2))
        if self.window.fill:
            raise Filled
        return self._until_end("keys", layer), self._until_end("values", layer)

    def _until_end(self, kind: str, layer: int) -> Tensor:
        buffer = self._buffers[kind, layer][:, : self.window.end]
        return self._of_rows(buffer).transpose(1, 2)

    def _of_rows(self, buffer: Tensor) -> Tensor:
        return buffer if self.window.rows is None else buffer.index_select(0, self.window.rows)

    def _trim(self) -> None:
        """Drop the columns before every lane's start, once there are many."""
        unused = min(self.starts)
        if unused < FIRST_SPARE:
            return
        self._change(lambda buffer: buffer[:, unused:].clone())
        self.columns -= unused
        self.starts = [start - unused for start in self.starts]
        self.done = [[max(0, count - unused) for count in done] for done in self.done]

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        self._buffers = {name: change(buffer) for name, buffer in self._buffers.items()}
