"""The shadow of a generated answer: what the full model takes at each place of it.

One teacher-forced pass over prompt and answer, not a second generation. Sampled answers are
compared under their own draws: the full model's token is the one the same seed gives it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from rollout.engine.generation.request import GenerationError, TextRequest
from rollout.engine.generation.result import Generated, TextAgreement
from rollout.engine.generation.sampling import next_tokens
from rollout.engine.generation.text import TextStream
from rollout.engine.segments import Segments


@torch.inference_mode()
def shadow(
    segments: Segments,
    requests: Sequence[TextRequest],
    answers: Sequence[Generated],
    full_texts: Sequence[str | None] | None = None,
) -> list[TextAgreement]:
    """Compare answers with the full model in one pass over prompts and answers.

    Args:
        full_texts: The full model's own answers, where they were generated, for the similarity.

    Raises:
        GenerationError: the full model's scores are not finite.
    """
    (final,) = states(segments, requests, answers, (segments.loaded.depth,))
    compared = []
    for row, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        taken = full_tokens(segments, final[row], request)
        theirs = None if full_texts is None else full_texts[row]
        compared.append(
            compare(segments.loaded.tokenizer, request, answer.tokens, taken, answer.text, theirs)
        )
    return compared


@torch.inference_mode()
def states(
    segments: Segments,
    requests: Sequence[TextRequest],
    answers: Sequence[Generated],
    layers: Sequence[int],
) -> list[list[Tensor]]:
    """Exact states after some layers at the places of answers, [layers][answers] [tokens, width].

    Args:
        layers: Rising.
    """
    state = segments.start(
        [
            [*request.prompt, *answer.tokens[:-1]]
            for request, answer in zip(requests, answers, strict=True)
        ]
    )
    found = []
    for layer in layers:
        state = segments.advance(state, layer)
        found.append(
            [state.hidden[row, -len(answer.tokens) :] for row, answer in enumerate(answers)]
        )
    return found


def full_tokens(segments: Segments, hidden: Tensor, request: TextRequest) -> list[int]:
    """The full model's tokens from its last layer's states at an answer's places, [tokens, width].

    Raises:
        GenerationError: its scores are not finite.
    """
    scores = segments.logits(hidden)
    if not bool(scores.max(-1).values.isfinite().all()):
        raise GenerationError(
            "the full model's scores are not finite: this answer cannot be compared"
        )
    return next_tokens(scores, [request] * len(scores), range(len(scores)))


def compare(
    tokenizer: PreTrainedTokenizerBase,
    request: TextRequest,
    tokens: Sequence[int],
    full: Sequence[int],
    text: str,
    full_text: str | None = None,
) -> TextAgreement:
    """Agreement of an answer's tokens and text with the full model's.

    Args:
        full: The full model's token at each place, given the answer before it.
        full_text: Its own answer; None: the text of `full`.
    """
    by_token = tuple(ours == theirs for ours, theirs in zip(tokens, full, strict=True))
    if full_text is None:
        stream = TextStream(tokenizer, request.stop)
        for token in full:
            if not stream.stopped:
                stream.push(token)
        stream.finish()
        full_text = stream.text
    return TextAgreement(
        by_token=by_token,
        share=sum(by_token) / len(by_token),
        exact=text == full_text,
        similarity=similarity(text, full_text),
        full_text=full_text,
    )


def similarity(text: str, reference: str) -> float:
    """chrF (Popovic 2015) of two texts as sacrebleu computes it, in [0, 1]; 1 for the same text."""
    # Only a compared answer pays for the import.
    from sacrebleu.metrics.chrf import CHRF

    if text == reference:
        return 1.0
    return float(CHRF().sentence_score(text, [reference]).score) / 100
