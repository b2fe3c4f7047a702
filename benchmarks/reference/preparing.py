"""What training starts from, made once and kept beside the checkpoints: tokenizer, soft labels,
sentence vectors, start vectors and the linear baselines' accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from benchmarks.reference.encoder import encoder_folder, sentence_vectors, word_vectors
from benchmarks.reference.examples import Encoded, Source
from benchmarks.reference.hard_tasks import answers_of
from benchmarks.reference.sets import BUSINESS_SETS, HARD_SETS, SETS, TextSet, read_set
from benchmarks.reference.teacher import teach
from benchmarks.reference.tokenizer import build_tokenizer, start_vectors

CONTEXT_TOKENS = 1024
EPOCHS = {
    "clinc150": 8.0,
    "banking77": 14.0,
    "sst2": 7.0,
    "custrev": 8.0,
    "trec": 7.0,
    "agnews": 2.5,
    "mmlu_business": 1.0,
    "airline_stream": 5.0,
    "cups": 3.0,
    "heading": 3.0,
}


@dataclass(frozen=True)
class Lesson:
    """One business set's distillation targets, by training row.

    Attributes:
        label_tokens: [labels].
        soft: The teacher's probabilities, [rows, labels].
        vectors: The encoder's sentence vectors, [rows, 384].
    """

    label_tokens: NDArray[np.int64]
    soft: NDArray[np.float32]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class Prepared:
    tokenizer: PreTrainedTokenizerFast
    start_vectors: NDArray[np.float32]
    sources: dict[str, Source]
    lessons: dict[str, Lesson]
    baselines: dict[str, dict[str, float]]


def prepare(
    folder: Path, width: int, report: Callable[[str], None] = lambda what: None
) -> Prepared:
    """Read what `folder` holds and make what it lacks.

    Args:
        report: Called with what is done next.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        report("tokenizer")
        tokenizer = build_tokenizer(
            encoder_folder() / "tokenizer.json",
            _corpus(),
            (label for name in SETS for label in read_set(name).labels),
            CONTEXT_TOKENS,
        )
        tokenizer.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    vectors_file = folder / f"start-{width}.npy"
    if not vectors_file.exists():
        report("word vectors")
        vectors = start_vectors(tokenizer, encoder_folder() / "tokenizer.json", word_vectors(width))
        np.save(vectors_file, vectors)
    for name in BUSINESS_SETS:
        if not (folder / f"{name}.npz").exists():
            report(f"soft labels of {name}")
            _teach(read_set(name), folder / f"{name}.npz")
    lessons, baselines = {}, {}
    for name in BUSINESS_SETS:
        with np.load(folder / f"{name}.npz") as kept:
            label_tokens = label_ids(tokenizer, read_set(name))
            lessons[name] = Lesson(label_tokens, kept["soft"], kept["vectors"])
            baselines[name] = json.loads(str(kept["accuracy"]))
    report("prompts")
    sources = {
        name: Source(encode_set(tokenizer, read_set(name)), EPOCHS[name], name not in HARD_SETS)
        for name in SETS
    }
    return Prepared(tokenizer, np.load(vectors_file), sources, lessons, baselines)


def label_ids(tokenizer: PreTrainedTokenizerBase, text_set: TextSet) -> NDArray[np.int64]:
    """The one token of each label, [labels]."""
    ids = [tokenizer(label)["input_ids"] for label in text_set.labels]
    assert all(len(one) == 1 for one in ids)
    return np.array(ids, dtype=np.int64)[:, 0]


def _corpus() -> Iterator[str]:
    for name in SETS:
        text_set = read_set(name)
        yield from text_set.labels
        yield from (text_set.prompt(row.text) for row in text_set.train)


def _teach(text_set: TextSet, path: Path) -> None:
    place = {label: index for index, label in enumerate(text_set.labels)}
    train, held_out = text_set.train, text_set.held_out
    vectors = sentence_vectors([row.text for row in train])
    taught = teach(
        [row.text for row in train],
        vectors,
        [place[row.label] for row in train],
        [row.text for row in held_out],
        sentence_vectors([row.text for row in held_out]),
        [place[row.label] for row in held_out],
    )
    accuracy = {"bag_of_words": taught.bag_of_words_accuracy, "teacher": taught.teacher_accuracy}
    np.savez(path, soft=taught.soft, vectors=vectors, accuracy=json.dumps(accuracy))


def encode_set(tokenizer: PreTrainedTokenizerFast, text_set: TextSet) -> list[Encoded]:
    """The training rows as prompts; labels that the tokenizer knows as one token each."""
    before, after = (
        len(tokenizer(part)["input_ids"]) for part in text_set.template.split("{{ text }}")
    )
    labels = dict(zip(text_set.labels, label_ids(tokenizer, text_set).tolist(), strict=True))
    prompts = tokenizer([text_set.prompt(row.text) for row in text_set.train])["input_ids"]
    encoded = []
    for row, tokens in zip(text_set.train, prompts, strict=True):
        end = len(tokens) - after
        steps = answers_of(text_set.name, row.text) if text_set.name in HARD_SETS else []
        # The answer after a step is learned at the step's last token: see hard_tasks.
        answers = [(before + place, labels[answer]) for place, answer in steps]
        answers.append((len(tokens) - 1, labels[row.label]))
        encoded.append(Encoded(tuple(tokens), before, end, tuple(answers)))
    return encoded
