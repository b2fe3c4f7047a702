"""What one request for text asks for, checked against the model before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rollout.engine.loading import LoadedModel
from rollout.values import RolloutError


class GenerationError(RolloutError):
    """A request for text that cannot be run: the message names the field and its bounds."""


@dataclass(frozen=True)
class TextRequest:
    """One prompt and how to continue it.

    Attributes:
        prompt: Token ids.
        max_tokens: Tokens of the answer at most; prompt and answer must fit the context.
        temperature: 0 is greedy; above it, tokens are sampled.
        top_k: Sample among the k best tokens only; 0: all.
        top_p: Sample among the fewest tokens whose probabilities reach p (Holtzman et al. 2020).
        seed: The draw of each position hangs on this and the position alone, never on batch mates.
        stop: The answer ends before the first of these strings.
        shadow: Complete the skipped layers after the answer and compare, token by token.
    """

    prompt: tuple[int, ...]
    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    shadow: bool = False

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    def check(self, loaded: LoadedModel) -> None:
        """Raises:
        GenerationError: a field outside its bounds, or more tokens than the context holds.
        """
        if not self.prompt:
            raise GenerationError("prompt: it has no token; a prompt needs at least one")
        vocabulary = loaded.vocabulary
        strange = [token for token in self.prompt if not 0 <= token < vocabulary]
        if strange:
            raise GenerationError(
                f"prompt: token {strange[0]} is outside the vocabulary (0 to {vocabulary - 1}); "
                "encode the prompt with this model's tokenizer"
            )
        if self.max_tokens < 1:
            raise GenerationError(f"max_tokens: {self.max_tokens} is below 1")
        length, context = len(self.prompt) + self.max_tokens, loaded.context_tokens
        if length > context:
            raise GenerationError(
                f"max_tokens: prompt ({len(self.prompt)}) and answer ({self.max_tokens}) come to "
                f"{length} tokens, the model's context holds {context}; shorten one of them"
            )
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise GenerationError(
                f"temperature: {self.temperature} must be 0 (greedy) or a number above it"
            )
        if self.top_k < 0:
            raise GenerationError(f"top_k: {self.top_k} must be 0 (all tokens) or above it")
        if not 0 < self.top_p <= 1:
            raise GenerationError(f"top_p: {self.top_p} must be above 0 and at most 1")
        if any(not text for text in self.stop):
            raise GenerationError("stop: an empty string would stop every answer at once")
