"""One answer in progress: its tokens, what was drafted, what it has cost, why it ended."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from rollout.engine.generation.passes import Work
from rollout.engine.generation.request import TextRequest
from rollout.engine.generation.result import Generated, StopReason, TextAgreement
from rollout.engine.generation.text import TextStream


@dataclass
class Answer:
    """What `Generated` is made from.

    Attributes:
        number: The request's place in its batch.
        end_tokens: Tokens that end an answer.
        drafts: Tokens that the full model has not yet seen (verify mode).
    """

    number: int
    request: TextRequest
    stream: TextStream
    end_tokens: Collection[int]
    tokens: list[int] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    exit_layers: list[int | None] = field(default_factory=list)
    confidences: list[float | None] = field(default_factory=list)
    work: Work = field(default_factory=Work)
    drafted: int = 0
    accepted: int = 0
    stop_reason: StopReason | None = None
    agreement: TextAgreement | None = None
    fault: str | None = None

    @property
    def position(self) -> int:
        """Index, in the answer, of the token to be found next."""
        return len(self.tokens) + len(self.drafts)

    @property
    def newest(self) -> int:
        """The token to go on from."""
        return (self.drafts or self.tokens)[-1]

    def draft(self, token: int) -> None:
        self.drafts.append(token)
        self.drafted += 1

    def take(self, token: int, layer: int | None, confidence: float | None) -> str:
        """Add a token of the answer and return the text that is now certain."""
        self.tokens.append(token)
        self.exit_layers.append(layer)
        self.confidences.append(confidence)
        text = self.stream.push(token)
        if self.stream.stopped:
            self.stop_reason = "stop_string"
        elif token in self.end_tokens:
            self.stop_reason = "end_of_text"
        elif len(self.tokens) == self.request.max_tokens:
            self.stop_reason = "max_tokens"
        return text if self.stop_reason is None else text + self.stream.finish()

    def verify(self, full_tokens: list[int | None]) -> tuple[str, int]:
        """Take the full model's tokens up to the first that no draft foresaw.

        Args:
            full_tokens: After each column since the last token, hence one more than the drafts;
                None where the scores were not finite.

        Returns:
            The text that is now certain, and how many drafts fell.
        """
        drafts, self.drafts = self.drafts, []
        self.work.full_heads += len(full_tokens)
        text, stood = "", 0
        for token, draft in zip(full_tokens, [*drafts, None], strict=True):
            if token is None:
                self.fault = "the full model's scores are not finite"
                self.stop_reason = "fault"
                text += self.stream.finish()
                break
            text += self.take(token, None, None)
            if token == draft:
                stood += 1
            if token != draft or self.stop_reason is not None:
                break
        self.accepted += stood
        return text, len(drafts) - stood

    def result(self) -> Generated:
        assert self.stop_reason is not None
        return Generated(
            text=self.stream.text,
            tokens=tuple(self.tokens),
            exit_layers=tuple(self.exit_layers),
            confidences=tuple(self.confidences),
            stop_reason=self.stop_reason,
            prompt_tokens=len(self.request.prompt),
            work=self.work,
            drafted=self.drafted,
            accepted=self.accepted,
            agreement=self.agreement,
            fault=self.fault,
        )
