"""Prompts as token ids, checked before a layer sees them.

A token outside the vocabulary fails deep inside the embedding, and on CUDA takes the process down.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollout.engine.loading import LoadedModel
from rollout.engine.task import BadRequest


def check_prompts(loaded: LoadedModel, prompts: Sequence[Sequence[int]], before: int = 0) -> None:
    """Check a batch of prompts.

    Args:
        before: Tokens of the prefix that stands before each of them.

    Raises:
        BadRequest: more tokens than the context takes, or a token outside the vocabulary.
    """
    longest = before + max(len(prompt) for prompt in prompts)
    if longest > loaded.context_tokens:
        raise BadRequest(
            f"a prompt has {longest} tokens but the model's context takes "
            f"{loaded.context_tokens}: shorten it"
        )
    vocabulary = loaded.vocabulary
    for row, prompt in enumerate(prompts):
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            raise BadRequest(
                f"prompt {row} has a token outside the vocabulary (0 to {vocabulary - 1}): "
                "encode it with this model's tokenizer"
            )
