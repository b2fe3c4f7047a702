"""The reference model's sets: public business texts and two generated tasks that need depth.

Every set has one prompt template and one list of labels; a fifth of its rows, fixed by a hash of
their ids, is held out: never trained on, never tuned on.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.reference.hard_tasks import HARD_TASKS, generate
from rollout.values import RolloutError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HELD_OUT_SHARE = 0.2
HARD_ROWS = 30_000

BUSINESS_SETS = (
    "clinc150",
    "banking77",
    "sst2",
    "custrev",
    "trec",
    "agnews",
    "mmlu_business",
    "airline_stream",
)
"""The sets of `../shared/data`."""

SENTIMENT_SETS = ("sst2", "custrev", "airline_stream")
HARD_SETS = tuple(HARD_TASKS)
"""Generated; a model needs more layers the more steps a row has."""

SETS = (*BUSINESS_SETS, *HARD_SETS)

_TEMPLATES = {
    "clinc150": "assistant: {{ text }}\nintent:",
    "banking77": "banking: {{ text }}\nintent:",
    "sst2": "movie: {{ text }}\nsentiment:",
    "custrev": "product: {{ text }}\nsentiment:",
    "trec": "question: {{ text }}\ntype:",
    "agnews": "news: {{ text }}\ntopic:",
    "mmlu_business": "exam: {{ text }}\nanswer:",
    "airline_stream": "airline: {{ text }}\nsentiment:",
    "cups": "cups: {{ text }}\nball:",
    "heading": "heading: {{ text }}\nfacing:",
}
_MAX_WORDS = {"agnews": 48, "mmlu_business": 96}
"""Longer texts are cut, for training and evaluation alike, so that they cost what others cost."""


@dataclass(frozen=True)
class Row:
    """One labelled text; `timestamp` only where the set is dated."""

    id: str
    text: str
    label: str
    timestamp: str | None = None


@dataclass(frozen=True)
class TextSet:
    """A set's prompt template (Jinja2, uses `text`), labels and rows."""

    name: str
    labels: tuple[str, ...]
    template: str
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]

    def prompt(self, text: str) -> str:
        """The filled template."""
        return self.template.replace("{{ text }}", text)


def is_held_out(row_id: str) -> bool:
    """A fixed fifth of all ids."""
    digest = hashlib.sha256(f"reference held-out:{row_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53 < HELD_OUT_SHARE


@cache
def read_set(name: str) -> TextSet:
    """Read or generate a set; a training text that is also held out is left out of training.

    Raises:
        RolloutError: an unknown set, or the folder of the business texts is absent.
    """
    if name not in SETS:
        raise RolloutError(f"no set {name!r}; there are: {', '.join(SETS)}")
    rows = _generated(name) if name in HARD_SETS else _read_csv(name)
    held_out = tuple(row for row in rows if is_held_out(row.id))
    known = {row.text.casefold() for row in held_out}
    train = tuple(
        row for row in rows if not is_held_out(row.id) and row.text.casefold() not in known
    )
    labels = tuple(sorted({row.label for row in rows}))
    return TextSet(name, labels, _TEMPLATES[name], train, held_out)


def _generated(name: str) -> list[Row]:
    return [
        Row(f"{name}-{place}", text, answer)
        for place, (text, answer) in enumerate(generate(name, HARD_ROWS, seed=0))
    ]


def _read_csv(name: str) -> list[Row]:
    path = DATA / f"{name}.csv"
    if not path.is_file():
        raise RolloutError(
            f"{path} is absent: the reference model's sets lie in a folder shared/data beside "
            "the project's (see benchmarks/results/reference_model.md)"
        )
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(row["id"], _cut(name, row["text"]), row["label"], row["timestamp"] or None)
            for row in csv.DictReader(file)
            if row["text"].strip()
        ]


def _cut(name: str, text: str) -> str:
    words = text.split()
    return " ".join(words[: _MAX_WORDS.get(name, len(words))])
