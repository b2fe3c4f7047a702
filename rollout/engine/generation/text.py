"""Text out of tokens, piece by piece: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"
"""What a decoder puts where a character's last bytes are still to come."""


class TextStream:
    """Turns one answer's tokens into text that is final as soon as it is handed out.

    A token is decoded together with those since the last whole character, as in Hugging Face's
    text-generation-inference (`decode_token`), so a long answer costs no more a token than a short
    one. The longest end of the text that may become a stop string is held back.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._context = 0
        self._read = 0
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take a token and return the text that is now certain (often empty)."""
        self._tokens.append(token)
        return self._release(self._decoded(final=False))

    def finish(self) -> str:
        """The rest: what was held back, and bytes that never became a character."""
        piece = "" if self.stopped else self._release(self._decoded(final=True))
        rest, self._held = self._held, ""
        self.text += rest
        return piece + rest

    def _decoded(self, *, final: bool) -> str:
        before = self._decode(self._tokens[self._context : self._read])
        text = self._decode(self._tokens[self._context :])
        if len(text) <= len(before) or (text.endswith(_UNFINISHED) and not final):
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return text[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def _release(self, piece: str) -> str:
        self._held += piece
        found = [place for text in self._stop if (place := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
        else:
            keep = max(
                (
                    length
                    for text in self._stop
                    for length in range(1, min(len(text), len(self._held) + 1))
                    if self._held.endswith(text[:length])
                ),
                default=0,
            )
            cut = len(self._held) - keep
            certain, self._held = self._held[:cut], self._held[cut:]
        self.text += certain
        return certain
