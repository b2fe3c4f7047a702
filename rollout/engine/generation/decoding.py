"""Decode a batch of answers, token by token; each token leaves at its own layer.

The rows go in step: one token each, and those that are not confident go deeper together. Nobody
waits for the slowest row, and no row's answer depends on its batch mates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from rollout.engine.generation.answer import Answer
from rollout.engine.generation.exits import TokenExits, TokenHead
from rollout.engine.generation.passes import Passes, Work
from rollout.engine.generation.request import GenerationError, TextRequest
from rollout.engine.generation.result import Generated, TextAgreement
from rollout.engine.generation.sampling import next_tokens
from rollout.engine.generation.shadow import compare, full_tokens, shadow
from rollout.engine.generation.text import TextStream
from rollout.engine.segments import Segments

Piece = tuple[int, str]
"""A request's place in its batch, and text of its answer that is now certain."""


class Decoding:
    """A batch of answers in progress. `step` until nothing is `running`, then read `results`.

    Raises:
        GenerationError: no request, or one that cannot be run.
        PolicyError: exits that this model cannot serve.
    """

    def __init__(
        self, segments: Segments, requests: Sequence[TextRequest], exits: TokenExits | None = None
    ) -> None:
        loaded = segments.loaded
        self.exits = exits or TokenExits()
        self.exits.check(loaded.depth)
        if not requests:
            raise GenerationError("a batch needs at least one request")
        for request in requests:
            request.check(loaded)
        self.segments = segments
        end_tokens = _end_tokens(segments)
        self._all = [
            Answer(number, request, TextStream(loaded.tokenizer, request.stop), end_tokens)
            for number, request in enumerate(requests)
        ]
        self._answers = list(self._all)
        self._passes = Passes(
            segments,
            (*self.exits.layers, loaded.depth),
            [request.prompt for request in requests],
            self.exits.skipped_keys,
            keep_final=any(request.shadow for request in requests),
        )

    @property
    def running(self) -> bool:
        return bool(self._answers)

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """One token for every answer still running (in verify mode: a draft, or several tokens)."""
        pieces: list[Piece] = []
        going = list(range(len(self._answers)))
        work = [answer.work for answer in self._answers]
        for number in range(len(self.exits.layers)):
            hidden = self._passes.run(going, number, work)[:, -1]
            going = self._offer_exit(number, going, hidden, pieces)
            if not going:
                break
        if going:
            hidden = self._passes.run(going, len(self.exits.layers), work)
            self._ask_full(going, hidden, pieces)
        self._leave()
        if self._answers:
            self._passes.append([answer.newest for answer in self._answers])
        return [(number, text) for number, text in pieces if text]

    def results(self) -> list[Generated]:
        """One result per request, in their order, once nothing is running."""
        return [answer.result() for answer in self._all]

    def _offer_exit(
        self, number: int, going: list[int], hidden: Tensor, pieces: list[Piece]
    ) -> list[int]:
        """Let confident rows take this exit's token; the rows that go on are returned.

        Args:
            hidden: The going rows' newest states, [rows, width].
        """
        layer = self.exits.layers[number]
        head = self.exits.heads.get(layer, TokenHead())
        asked = [
            place
            for place, (row, worth) in enumerate(zip(going, head.worth_asking(hidden), strict=True))
            if worth and self._may_exit(number, row)
        ]
        if not asked:
            return going
        scores, confidence = head.probe(
            self.segments, hidden if len(asked) == len(going) else hidden[asked]
        )
        answers = [self._answers[going[place]] for place in asked]
        tokens = next_tokens(scores, [a.request for a in answers], [a.position for a in answers])
        left = set()
        for place, answer, token, value in zip(
            asked, answers, tokens, confidence.tolist(), strict=True
        ):
            answer.work.probes += 1
            position, longest = answer.position, answer.request.max_tokens
            if not math.isfinite(value):
                answer.fault = f"the confidence at layer {layer} is not finite"
            elif value >= self.exits.threshold(number, position, longest):
                left.add(place)
                if self.exits.mode == "verify":
                    answer.draft(token)
                else:
                    pieces.append((answer.number, answer.take(token, layer, value)))
        return [row for place, row in enumerate(going) if place not in left]

    def _may_exit(self, number: int, row: int) -> bool:
        answer = self._answers[row]
        if self.exits.thresholds[number] >= 1:
            return False
        if self.exits.mode == "early":
            return True
        # The full model gives one token beyond the drafts: the last one need not be drafted.
        room = answer.position < answer.request.max_tokens - 1
        return room and len(answer.drafts) < self.exits.draft_tokens

    def _ask_full(self, going: list[int], hidden: Tensor, pieces: list[Piece]) -> None:
        """Take the full model's tokens: one, or in verify mode all up to the first fallen draft.

        Args:
            hidden: States after the last layer, [rows, columns, width].
        """
        answers = [self._answers[row] for row in going]
        asked = [
            (place, before)
            for place, answer in enumerate(answers)
            for before in range(len(answer.drafts), -1, -1)
        ]
        places = [place for place, _ in asked]
        scores = self.segments.logits(hidden[places, [-1 - before for _, before in asked]])
        finite = scores.max(-1).values.isfinite().tolist()
        positions = [answers[place].position - before for place, before in asked]
        tokens = next_tokens(scores, [answers[place].request for place in places], positions)
        found: list[list[int | None]] = [[] for _ in answers]
        for place, token, fine in zip(places, tokens, finite, strict=True):
            found[place].append(token if fine else None)
        fallen = [0] * len(self._answers)
        for row, answer, taken in zip(going, answers, found, strict=True):
            text, fallen[row] = answer.verify(taken)
            pieces.append((answer.number, text))
        if any(fallen):
            self._passes.take_back(fallen)

    def _leave(self) -> None:
        """Complete answers leave the batch; shadowed ones are compared first."""
        staying = [row for row, answer in enumerate(self._answers) if answer.stop_reason is None]
        if len(staying) == len(self._answers):
            return
        for row, answer in enumerate(self._answers):
            if answer.stop_reason not in (None, "fault") and answer.request.shadow:
                answer.agreement = self._compare(row, answer)
        self._answers = [self._answers[row] for row in staying]
        if staying:
            self._passes.keep(staying)

    def _compare(self, row: int, answer: Answer) -> TextAgreement:
        """Shadow an answer; where its states are exact, by running only the layers it skipped."""
        request, text = answer.request, answer.stream.text
        if self.exits.mode == "verify":
            full = answer.tokens
        elif self.exits.skipped_keys == "propagate":
            columns = len(request.prompt) + len(answer.tokens) - 1
            answer.work.shadow_layers = self.segments.loaded.depth * columns
            return shadow(self.segments, [request], [answer.result()])[0]
        else:
            hidden = self._complete(row, answer)
            full = full_tokens(self.segments, hidden[-len(answer.tokens) :], request)
        return compare(self.segments.loaded.tokenizer, request, answer.tokens, full, text)

    def _complete(self, row: int, answer: Answer) -> Tensor:
        """Run what still waits; the last layer's states of all columns, [columns, width]."""
        spent = {row: Work()}
        for segment, done in enumerate(self._passes.lanes.done):
            if done[row] < self._passes.lanes.columns:
                self._passes.run([row], segment, spent)
        answer.work.shadow_layers = spent[row].layers_run + spent[row].prompt_layers
        return self._passes.final(row)


def generate(
    segments: Segments,
    requests: Sequence[TextRequest],
    exits: TokenExits | None = None,
    on_text: Callable[[int, str], None] = lambda number, text: None,
) -> list[Generated]:
    """Answer a batch of requests; without exits, every token gets full depth.

    Args:
        on_text: Called with a request's place and the next piece of its text, as soon as that is
            certain; the pieces of a request together are its `Generated.text`.

    Raises:
        GenerationError: no request, or one that cannot be run, with the field and its bounds.
        PolicyError: exits that this model cannot serve.
    """
    decoding = Decoding(segments, requests, exits)
    while decoding.running:
        for number, text in decoding.step():
            on_text(number, text)
    return decoding.results()


def stream(
    segments: Segments, request: TextRequest, exits: TokenExits | None = None
) -> Iterator[str]:
    """The text of one answer, piece by piece, as it becomes certain."""
    decoding = Decoding(segments, [request], exits)
    while decoding.running:
        for _, text in decoding.step():
            yield text


def _end_tokens(segments: Segments) -> frozenset[int]:
    """The tokens that end an answer, by the model's generation config as in transformers."""
    config = segments.loaded.model.generation_config
    found = None if config is None else config.eos_token_id
    if found is None:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found)
