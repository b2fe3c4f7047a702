"""Random Llamas whose rows exit exactly where a benchmark wants them to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rollout.engine.choice import RowPlan, RowResult, answer_batch
from rollout.engine.collect import collect
from rollout.engine.costs import LoopCosts
from rollout.engine.heads import ExitHead, ExitHeads
from rollout.engine.loading import LoadedModel
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask, compile_task
from rollout.values import ExitPolicy

SHAPES = {"12 layers, d=256": (12, 256), "24 layers, d=1024": (24, 1024)}
BATCHES = (1, 8, 32)
WORDS = 24
"""Of each text, where all rows are of one length."""
LABELS = 8
VOCABULARY = 500
RIDGE = 1e-6
"""Relative; the rows to steer are fewer than the numbers of a head, which hits them exactly."""


@dataclass(frozen=True)
class Subject:
    """A random model with a choice task of one-token labels."""

    segments: Segments
    task: ChoiceTask

    @property
    def depth(self) -> int:
        return self.segments.loaded.depth


def random_llama(layers: int, width: int) -> Subject:
    """A Llama with random weights in float32, and a tokenizer of a word a token."""
    vocabulary = {"<pad>": 0, **{f"w{place}": place for place in range(1, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).train(False).requires_grad_(False)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", padding_side="left"
    )
    segments = Segments(LoadedModel(model, fast, "random"))
    labels = [f"w{place}" for place in range(1, LABELS + 1)]
    return Subject(segments, compile_task(segments.loaded, labels, "{{ text }} w9"))


def texts(lengths: Sequence[int]) -> list[str]:
    """Random texts of so many words."""
    random = Random(0)
    return [" ".join(f"w{random.randrange(10, VOCABULARY)}" for _ in range(n)) for n in lengths]


def steered(
    subject: Subject,
    prompts: Sequence[list[list[int]]],
    exits: Sequence[int],
    layers: Sequence[int],
) -> tuple[ExitPolicy, ExitHeads]:
    """A policy by which prompt i exits at layer exits[i], or never where that is the depth.

    Each label head is solved so that the first label leads by a wide margin where the row is to
    exit, and by a narrow one where it is not; a judge of all features stands between the two.
    """
    collected = collect(subject.segments, subject.task, prompts, layers)
    heads = {}
    for layer in layers:
        seen = subject.segments.loaded.norm(collected.text[layer]).flatten(1).double()
        wanted = torch.tensor([40.0 if layer == exit_ else 4.0 for exit_ in exits])
        gram = seen @ seen.T
        gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        solved = seen.T @ torch.linalg.solve(gram, wanted.double())
        weight = torch.zeros(LABELS, seen.shape[1])
        weight[0] = solved.float()
        # Log-odds and margin of the best label, and their changes, which count for nothing.
        judge = torch.tensor([0.5, 0.5, 0.0, 0.0, -20.0])
        heads[layer] = ExitHead(weight, torch.zeros(LABELS), judge, torch.empty(0, 5))
    loaded = subject.segments.loaded
    made = ExitHeads(heads, "learned", loaded.revision, subject.task.fingerprint, "label_head")
    thresholds = (0.5,) * len(layers)
    policy = ExitPolicy(
        "billing", 1, tuple(layers), thresholds, "", "learned", loaded.revision, subject.depth
    )
    return policy, made


def answer(
    subject: Subject,
    prompts: Sequence[list[list[int]]],
    steering: tuple[ExitPolicy, ExitHeads] | None,
    *,
    may_exit: bool,
    costs: LoopCosts | None = None,
) -> list[RowResult]:
    policy, heads = steering or (None, None)
    plans = [RowPlan(may_exit=may_exit)] * len(prompts)
    return answer_batch(subject.segments, subject.task, prompts, plans, policy, heads, costs=costs)


def check_exits(results: Sequence[RowResult], exits: Sequence[int]) -> None:
    """Refuse to measure rows that went elsewhere than intended."""
    ran = [result.answer.layers_run if result.answer else None for result in results]
    if ran != list(exits):
        raise RuntimeError(f"rows exited after {ran} layers, steered to {list(exits)}")


def pairs(width: int, rows: int, quick: bool) -> int:
    """How often two calls take turns: the quicker, the more often."""
    many = {(256, 1): 150, (256, 8): 60, (256, 32): 25}.get((width, rows), 40 // rows + 5)
    return max(many // 4, 3) if quick else many


def alternated(first: Callable[[], object], second: Callable[[], object], pairs: int) -> float:
    """Time of the first over the second: medians of calls that take turns, after one of each.

    What else the machine does then falls on both.
    """
    first(), second()
    times = np.array([(_seconds(first), _seconds(second)) for _ in range(pairs)])
    medians = np.median(times, axis=0)
    return float(medians[0] / medians[1])


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
