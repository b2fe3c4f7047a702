"""Training the reference model, in small: real steps on a real tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.reference.evaluating import accuracy
from benchmarks.reference.examples import Encoded, Source, batches
from benchmarks.reference.preparing import Lesson, Prepared, encode_set
from benchmarks.reference.sets import Row, TextSet, read_set
from benchmarks.reference.teacher import teach
from benchmarks.reference.tokenizer import build_tokenizer, start_vectors
from benchmarks.reference.training import Plan, Progress, train
from rollout.engine.loading import load_model
from rollout.engine.task import compile_task

PLAN = Plan(depth=2, width=32, inner=64, heads=2, pools=4, batch_tokens=256, rate=1e-2)
SHORT = replace(PLAN, epochs_scale=0.4)
MAILS = TextSet(
    "mails",
    ("pay_now", "refund"),
    "mail: {{ text }}\nintent:",
    tuple(
        Row(str(row), f"please {word} number {row}", label)
        for row in range(60)
        for word, label in (("charge", "pay_now"), ("return", "refund"))
    ),
    (Row("a", "please charge number 99", "pay_now"), Row("b", "please return number 99", "refund")),
)
HARD = TextSet(
    "heading",
    read_set("heading").labels,
    read_set("heading").template,
    read_set("heading").train[:80],
    (),
)
WORDS = (
    "please charge return number mail intent pay now refund it heading facing : _ "
    "north east south west left right round mirror"
)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary of word pieces in the form of the encoder's."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    known = ["[PAD]", "[UNK]", *WORDS.split(), *letters, *(f"##{letter}" for letter in letters)]
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.json"
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(known))}
    path.write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return path


@pytest.fixture(scope="module")
def tokenizer(pieces: Path) -> PreTrainedTokenizerFast:
    labels = [*MAILS.labels, *HARD.labels]
    prompts = [each.prompt(row.text) for each in (MAILS, HARD) for row in each.train]
    return build_tokenizer(pieces, [*labels, *prompts], labels, 256)


@pytest.fixture(scope="module")
def prepared(tokenizer: PreTrainedTokenizerFast, pieces: Path) -> Prepared:
    random = np.random.default_rng(0)
    truth = np.array([MAILS.labels.index(row.label) for row in MAILS.train])
    soft = np.where(truth[:, None] == np.arange(2), 0.9, 0.1).astype(np.float32)
    vectors = np.eye(2, 6, dtype=np.float32)[truth]
    known = json.loads(pieces.read_text())["model"]["vocab"]
    return Prepared(
        tokenizer,
        start_vectors(tokenizer, pieces, random.normal(size=(len(known), 32)).astype(np.float32)),
        {
            "mails": Source(encode_set(tokenizer, MAILS), 6.0, True),
            "heading": Source(encode_set(tokenizer, HARD), 1.0, False),
        },
        {"mails": Lesson(np.array(tokenizer.convert_tokens_to_ids(MAILS.labels)), soft, vectors)},
        {},
    )


def test_a_killed_run_goes_on_to_the_same_weights(prepared: Prepared, tmp_path: Path) -> None:
    whole = train(SHORT, prepared, tmp_path / "whole")
    steps: list[Progress] = []
    for _ in range(3):
        train(SHORT, prepared, tmp_path / "parts", steps.append, stop_after=0.0)
    parts = train(SHORT, prepared, tmp_path / "parts", steps.append)
    assert [step.done for step in steps] == sorted({step.done for step in steps})
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name


def test_a_checkpoint_of_another_plan_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    train(PLAN, prepared, tmp_path, stop_after=0.0)
    with pytest.raises(ValueError, match="another plan"):
        train(replace(PLAN, depth=3), prepared, tmp_path)


def test_the_trained_model_answers_and_is_served_as_it_was_trained(
    prepared: Prepared, tmp_path: Path
) -> None:
    model = train(PLAN, prepared, tmp_path)
    assert accuracy(model, prepared.tokenizer, MAILS, MAILS.held_out) == 1.0
    model.save_pretrained(tmp_path / "model")
    prepared.tokenizer.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    task = compile_task(loaded, MAILS.labels, MAILS.template)
    assert task.rows_per_request == 1
    # The prompt the engine makes is the prompt that was trained on, token for token.
    row = MAILS.train[0]
    assert tuple(task.encode(row.text)[0]) == prepared.sources["mails"].rows[0].tokens
    assert accuracy(loaded.model, loaded.tokenizer, MAILS, MAILS.held_out) == 1.0


def test_every_label_is_one_token_and_starts_as_the_mean_of_its_words(
    prepared: Prepared, pieces: Path
) -> None:
    tokenizer = prepared.tokenizer
    assert all(len(tokenizer(label)["input_ids"]) == 1 for label in (*MAILS.labels, *HARD.labels))
    pay, now = (prepared.start_vectors[tokenizer.convert_tokens_to_ids(w)] for w in ("pay", "now"))
    label = prepared.start_vectors[tokenizer.convert_tokens_to_ids("pay_now")]
    assert np.allclose(label, (pay + now) / 2)


def test_all_pools_together_hold_every_row_once_an_epoch() -> None:
    rows = [Encoded((5, 6, row + 10, 7), 2, 3, ((3, 8),)) for row in range(50)]
    source = {"a": Source(rows, 3.0, False)}
    counts = Counter(
        asked.row
        for pool in range(7)
        for batch in batches(source, pool, 7, 64, seed=1)
        for prompt in batch
        for asked in prompt.asked
    )
    assert counts == dict.fromkeys(range(50), 3)


def test_a_few_shot_prompt_solves_what_it_asks_and_every_answer_stands_at_its_place() -> None:
    rows = [Encoded((5, row + 100, row + 200, 7), 1, 3, ((3, row + 300),)) for row in range(300)]
    source = {"a": Source(rows, 1.0, True)}
    prompts = [prompt for batch in batches(source, 0, 1, 512, seed=0) for prompt in batch]
    several = [prompt for prompt in prompts if len(prompt.asked) > 1]
    assert 0 < len(several) < len(prompts) / 3
    for prompt in prompts:
        for asked in prompt.asked:
            assert asked.token == asked.row + 300
            assert prompt.tokens[asked.position] == 7
            assert prompt.tokens[asked.position + 1 :][:1] in ([], [asked.token])


def test_a_batch_keeps_to_its_tokens() -> None:
    rows = [Encoded(tuple(range(2 + row % 30)), 0, 1, ((1, 8),)) for row in range(200)]
    for batch in batches({"a": Source(rows, 1.0, False)}, 0, 1, 128, seed=0):
        longest = max(len(prompt.tokens) for prompt in batch)
        assert len(batch) == 1 or longest * len(batch) <= 128


def test_the_teacher_labels_a_row_without_having_seen_it() -> None:
    """Labels that nothing explains: a teacher that had seen them would repeat them."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200).tolist()
    texts = [f"word{row % 40} word{row % 7}" for row in range(200)]
    vectors = random.normal(size=(200, 32)).astype(np.float32)
    taught = teach(texts, vectors, labels, texts, vectors, labels)
    assert np.allclose(taught.soft.sum(1), 1.0, atol=1e-4)
    assert abs((taught.soft.argmax(1) == np.array(labels)).mean() - 0.5) < 0.15
    assert taught.teacher_accuracy > 0.6
