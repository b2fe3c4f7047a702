"""The reference model's tokenizer: the encoder's word pieces that occur, and a token per label."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN = "[PAD]", "[UNK]"


def build_tokenizer(
    encoder_tokenizer: Path, corpus: Iterable[str], labels: Iterable[str], context_tokens: int
) -> PreTrainedTokenizerFast:
    """Keep the word pieces that the corpus uses, and every single character.

    Args:
        encoder_tokenizer: A `tokenizer.json` of word pieces without upper case.
        corpus: Prompts as they are trained on.
        labels: Each becomes one token where it is not one already.
    """
    pieces: dict[str, int] = json.loads(encoder_tokenizer.read_text())["model"]["vocab"]
    whole = _word_pieces(pieces)
    used = {token for text in corpus for token in whole.encode(text).tokens}
    letters = {piece for piece in pieces if len(piece.removeprefix("##")) == 1}
    kept = [PAD, UNKNOWN, *sorted((used | letters) - {PAD, UNKNOWN}, key=lambda p: pieces[p])]
    tokenizer = _word_pieces({piece: index for index, piece in enumerate(kept)})
    tokenizer.add_tokens(
        [
            AddedToken(label, single_word=True, normalized=False)
            for label in sorted(set(labels))
            if len(tokenizer.encode(label).ids) != 1
        ]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=context_tokens,
    )


def start_vectors(
    tokenizer: PreTrainedTokenizerFast, encoder_tokenizer: Path, vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Each token's row of the encoder's word vectors; a label's is the mean of its words'."""
    pieces: dict[str, int] = json.loads(encoder_tokenizer.read_text())["model"]["vocab"]
    whole = _word_pieces(pieces)
    rows = []
    for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))):
        ids = [pieces[token]] if token in pieces else whole.encode(token.replace("_", " ")).ids
        rows.append(vectors[ids].mean(0))
    return np.stack(rows)


def _word_pieces(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
