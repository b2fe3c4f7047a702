"""Training prompts, drawn without any state but their number, so that a killed run goes on alike.

A pool holds every set's quota of rows, so many of each as its number of epochs asks; rows are
drawn by a fresh permutation each epoch. Some prompts solve one to three other rows first (few-shot)
and are asked for every answer in them. Text tokens are dropped at random (word dropout: Iyyer et
al. 2015), except where every token counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray

FEW_SHOT_SHARE = 0.1
MOST_TOKENS = 400
DROPPED_ROWS, DROPPED_TOKENS = 0.5, 0.12


@dataclass(frozen=True)
class Encoded:
    """One row: its prompt's tokens, where its text lies, and its answer tokens by position.

    Attributes:
        answers: (position in `tokens`, token id); the last is the label at the prompt's end.
    """

    tokens: tuple[int, ...]
    text_start: int
    text_end: int
    answers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Source:
    """A set's encoded training rows and how they are used; rows without text are never dropped."""

    rows: Sequence[Encoded]
    epochs: float
    drops_words: bool


@dataclass(frozen=True)
class Asked:
    """One answer that is learned: at `position` the token `token`; `row` is its source's row."""

    position: int
    token: int
    source: str
    row: int
    final: bool


@dataclass(frozen=True)
class Prompt:
    tokens: list[int]
    asked: list[Asked]


def batches(
    sources: Mapping[str, Source], pool: int, pools: int, batch_tokens: int, seed: int
) -> list[list[Prompt]]:
    """The batches of pool number `pool` of `pools`, each of about `batch_tokens` padded tokens."""
    random = Random(f"{seed} {pool}")
    prompts: list[Prompt] = []
    for name, source in sources.items():
        total = len(source.rows) * source.epochs
        drawn = [
            _row_of(name, draw, len(source.rows), seed)
            for draw in range(int(total * pool / pools), int(total * (pool + 1) / pools))
        ]
        while drawn:
            count = random.randint(2, 4) if random.random() < FEW_SHOT_SHARE else 1
            prompts.append(_prompt(name, source, drawn[:count], random))
            del drawn[:count]
    # Lengths are blurred a little so that neighbours change from epoch to epoch.
    prompts.sort(key=lambda prompt: len(prompt.tokens) + random.random() * 2)
    made: list[list[Prompt]] = []
    rows: list[Prompt] = []
    for prompt in prompts:
        longest = max(len(row.tokens) for row in [*rows, prompt])
        if rows and longest * (len(rows) + 1) > batch_tokens:
            made.append(rows)
            rows = []
        rows.append(prompt)
    if rows:
        made.append(rows)
    random.shuffle(made)
    return made


def _row_of(name: str, draw: int, rows: int, seed: int) -> int:
    return int(_permutation(name, draw // rows, rows, seed)[draw % rows])


@cache
def _permutation(name: str, epoch: int, rows: int, seed: int) -> NDArray[np.int32]:
    generator = np.random.default_rng([seed, epoch, *name.encode()])
    return generator.permutation(rows).astype(np.int32)


def _prompt(name: str, source: Source, rows: Sequence[int], random: Random) -> Prompt:
    tokens: list[int] = []
    asked: list[Asked] = []
    for row in rows:
        encoded = source.rows[row]
        if tokens and len(tokens) + len(encoded.tokens) > MOST_TOKENS:
            break
        if tokens:
            tokens.append(asked[-1].token)
        start = len(tokens)
        last = len(encoded.answers) - 1
        if source.drops_words and random.random() < DROPPED_ROWS:
            kept = [
                token
                for place, token in enumerate(encoded.tokens)
                if not encoded.text_start <= place < encoded.text_end
                or random.random() >= DROPPED_TOKENS
            ]
            tokens.extend(kept)
            asked.append(Asked(len(tokens) - 1, encoded.answers[-1][1], name, row, True))
        else:
            tokens.extend(encoded.tokens)
            asked.extend(
                Asked(start + position, token, name, row, place == last)
                for place, (position, token) in enumerate(encoded.answers)
            )
    return Prompt(tokens, asked)
