"""Everything known of one answer: what was said, why each token was given where, what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from rollout.engine.generation.passes import Work

StopReason = Literal["end_of_text", "stop_string", "max_tokens", "fault"]


@dataclass(frozen=True)
class TextAgreement:
    """An answer against the full model's.

    Attributes:
        by_token: Whether the full model, given the answer so far, takes the same token.
        share: Mean of `by_token`.
        exact: Whether the two texts are the same.
        similarity: chrF (Popovic 2015) of the two texts, in [0, 1].
        full_text: The text compared with: the full model's own, or its choice at each position.
    """

    by_token: tuple[bool, ...]
    share: float
    exact: bool
    similarity: float
    full_text: str


@dataclass(frozen=True)
class Generated:
    """One answer.

    Attributes:
        text: What was streamed, without special tokens, ending before a stop string.
        tokens: All tokens taken, those of a stop string or the end of text included.
        exit_layers: Where each token was given; None: by the full model.
        confidences: The exit's confidence, for tokens that exited.
        stop_reason: `fault`: the full model's own scores were not finite; see `fault`.
        drafted: Tokens drafted in verify mode, of which `accepted` stood.
        fault: What was not finite, if anything was; an exit's fault only sends a token deeper.
    """

    text: str
    tokens: tuple[int, ...]
    exit_layers: tuple[int | None, ...]
    confidences: tuple[float | None, ...]
    stop_reason: StopReason
    prompt_tokens: int
    work: Work
    drafted: int = 0
    accepted: int = 0
    agreement: TextAgreement | None = None
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `json.dumps`."""
        return asdict(self)
