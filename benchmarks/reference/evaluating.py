"""Accuracy on rows the model never saw, at full depth, the answer among the set's labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from benchmarks.reference.preparing import label_ids
from benchmarks.reference.sets import Row, TextSet

BATCH_TOKENS = 4096


@torch.inference_mode()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text_set: TextSet,
    rows: Sequence[Row],
) -> NDArray[np.int64]:
    """The label index answered for each row."""
    labels = torch.from_numpy(label_ids(tokenizer, text_set))
    prompts = tokenizer([text_set.prompt(row.text) for row in rows])["input_ids"]
    order = sorted(range(len(rows)), key=lambda row: len(prompts[row]))
    answered = np.zeros(len(rows), dtype=np.int64)
    model.train(False)
    while order:
        longest = len(prompts[order[min(len(order), 32) - 1]])
        count = max(1, min(32, len(order), BATCH_TOKENS // longest))
        chosen, order = order[:count], order[count:]
        lengths = torch.tensor([len(prompts[row]) for row in chosen])
        # Padded on the right, where a causal model never looks: no mask is needed.
        padded = [prompts[row] + [0] * (int(lengths.max()) - len(prompts[row])) for row in chosen]
        hidden = model.base_model(input_ids=torch.tensor(padded), use_cache=False)
        last = hidden.last_hidden_state[torch.arange(count), lengths - 1]
        scores = model.lm_head(last)[:, labels]
        answered[chosen] = scores.argmax(-1).numpy()
    return answered


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text_set: TextSet,
    rows: Sequence[Row],
) -> float:
    """Share of rows answered with their label."""
    truth = np.array([text_set.labels.index(row.label) for row in rows])
    return float((answers(model, tokenizer, text_set, rows) == truth).mean())
