"""Keys and values of a prompt beginning that all requests share, computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prefix:
    """The shared tokens and what every layer keeps of them.

    Attributes:
        keys, values: Of each layer, [1, heads, tokens, head width].
    """

    tokens: tuple[int, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def of(cls, tokens: Sequence[int], kept: Iterable[tuple[Any, Any]]) -> Prefix:
        """From the keys and values of each layer."""
        keys, values = zip(*kept, strict=True)
        return cls(tuple(tokens), keys, values)


class PrefixCache:
    """Puts a prefix before the keys and values of a batch of suffixes, and keeps nothing else.

    In a shorter row the prefix moves right, next to its suffix, and the padding comes first, as if
    the whole prompt had been padded on the left. So the distance between two columns is that
    between two tokens, and sliding windows hold.

    `get_seq_length`, `get_query_offset`, `get_mask_sizes` and `update` are transformers' cache
    protocol.

    Args:
        lengths: Tokens of each suffix.
    """

    def __init__(self, prefix: Prefix, lengths: Sequence[int]) -> None:
        self.prefix = prefix
        self.lengths = tuple(lengths)
        self._moved = None if min(lengths) == max(lengths) else self._columns()

    def select(self, rows: Sequence[int]) -> PrefixCache:
        """The cache for these rows of the batch, as wide as the batch was."""
        chosen = PrefixCache(self.prefix, self.lengths)
        chosen.lengths = tuple(self.lengths[row] for row in rows)
        if self._moved is not None:
            index = torch.tensor(rows, dtype=torch.long, device=self._moved.device)
            chosen._moved = self._moved.index_select(0, index)
        return chosen

    def get_seq_length(self, layer: int = 0) -> int:
        return len(self.prefix.tokens)

    def get_query_offset(self, layer: int = 0) -> int:
        return len(self.prefix.tokens)

    def get_mask_sizes(self, query_length: int, layer: int) -> tuple[int, int]:
        """Keys a query may meet, and the column of the first of them."""
        return len(self.prefix.tokens) + query_length, 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Keys and values of whole prompts, [rows, heads, prefix + suffix, head width]."""
        return (
            self._before(self.prefix.keys[layer], keys),
            self._before(self.prefix.values[layer], values),
        )

    def _before(self, shared: Tensor, own: Tensor) -> Tensor:
        whole = torch.cat([shared.expand(own.shape[0], -1, -1, -1), own], dim=2)
        if self._moved is None:
            return whole
        index = self._moved[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[3])
        return whole.gather(2, index)

    def _columns(self) -> Tensor:
        """Which of the columns (prefix, suffix) stands at each place, [rows, prefix + suffix]."""
        first = len(self.prefix.tokens)
        padding = max(self.lengths) - torch.tensor(self.lengths)[:, None]
        columns = torch.arange(first + max(self.lengths)).expand(len(self.lengths), -1)
        moved = torch.where(columns < first + padding, columns - padding, columns)
        return moved.clamp(min=0).to(self.prefix.keys[0].device)
