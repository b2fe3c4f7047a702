"""Decode a batch of answers, token by token; each token leaves at its own layer.

The rows go in step: one token each, and those that are not confident go deeper together. Nobody
waits for the slowest row, and no row's answer depends on its batch mates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rollout.engine.generation.exits import TokenExits, TokenHead
from rollout.engine.generation.passes import Passes, Work
from rollout.engine.generation.request import TextRequest
from rollout.engine.generation.result import Generated, StopReason, TextAgreement
from rollout.engine.generation.sampling import next_tokens
from rollout.engine.generation.shadow import compare, full_tokens, shadow
from rollout.engine.generation.text import TextStream
from rollout.engine.segments import Segments


@dataclass
class _Row:
    number: int
    request: TextRequest
    stream: TextStream
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


Piece = tuple[int, str]
"""A request's number in its batch, and text of its answer that is now certain."""


class Decoding:
    """A batch of answers in progress. `step` until nothing is `running`, then read `results`.

    Raises:
        GenerationError: a request that cannot be run.
        PolicyError: exits that this model cannot serve.
    """

    def __init__(
        self, segments: Segments, requests: Sequence[TextRequest], exits: TokenExits | None = None
    ) -> None:
        loaded = segments.loaded
        self.exits = exits or TokenExits()
        self.exits.check(loaded.depth)
        for request in requests:
            request.check(loaded)
        self.segments = segments
        self.end_tokens = _end_tokens(segments)
        self._all = [
            _Row(number, request, TextStream(loaded.tokenizer, request.stop))
            for number, request in enumerate(requests)
        ]
        self._rows = list(self._all)
        self._passes = Passes(
            segments,
            (*self.exits.layers, loaded.depth),
            [request.prompt for request in requests],
            self.exits.skipped_keys,
            keep_final=any(request.shadow for request in requests),
        )

    @property
    def running(self) -> bool:
        return bool(self._rows)

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """One token for every row that is still running (in verify mode: a draft, or several)."""
        pieces: list[Piece] = []
        going = list(range(len(self._rows)))
        work = [row.work for row in self._rows]
        for number, layer in enumerate(self.exits.layers):
            hidden = self._passes.run(going, number, work)[:, -1]
            going = self._offer_exit(number, layer, going, hidden, pieces)
            if not going:
                break
        if going:
            hidden = self._passes.run(going, len(self.exits.layers), work)
            self._ask_full(going, hidden, pieces)
        self._leave()
        if self._rows:
            self._passes.append([(row.drafts or row.tokens)[-1] for row in self._rows])
        return [piece for piece in pieces if piece[1]]

    def results(self) -> list[Generated]:
        """One result per request, in their order, once nothing is running."""
        return [_result(row) for row in self._all]

    def _offer_exit(
        self, number: int, layer: int, going: list[int], hidden: Tensor, pieces: list[Piece]
    ) -> list[int]:
        """Let confident rows take this exit's token; the others' places are returned."""
        asked = [
            place for place, row in enumerate(going) if self._may_exit(number, self._rows[row])
        ]
        if not asked:
            return going
        head = self.exits.heads.get(layer, TokenHead())
        chosen = hidden if len(asked) == len(going) else hidden[asked]
        scores, confidence = head.probe(self.segments, chosen)
        rows = [self._rows[going[place]] for place in asked]
        tokens = next_tokens(scores, [r.request for r in rows], [r.position for r in rows])
        left = set()
        for place, row, token, value in zip(asked, rows, tokens, confidence.tolist(), strict=True):
            row.work.probes += 1
            threshold = self.exits.threshold(number, row.position, row.request.max_tokens)
            if not math.isfinite(value):
                row.fault = f"the confidence at layer {layer} is not finite"
            elif value >= threshold:
                left.add(place)
                if self.exits.mode == "verify":
                    row.drafts.append(token)
                    row.drafted += 1
                else:
                    pieces.append(self._take(row, token, layer, value))
        return [row for place, row in enumerate(going) if place not in left]

    def _may_exit(self, number: int, row: _Row) -> bool:
        if self.exits.thresholds[number] >= 1:
            return False
        if self.exits.mode == "early":
            return True
        # The full model gives one token beyond the drafts: the last one need not be drafted.
        room = row.position < row.request.max_tokens - 1
        return room and len(row.drafts) < self.exits.draft_tokens

    def _ask_full(self, going: list[int], hidden: Tensor, pieces: list[Piece]) -> None:
        """Take the full model's token; in verify mode, all drafts it agrees with before that."""
        rows = [self._rows[place] for place in going]
        asked = [(place, back) for place, row in enumerate(rows) for back in _behind(row)]
        places = [place for place, _ in asked]
        scores = self.segments.logits(hidden[places, [-1 - back for _, back in asked]])
        finite = scores.max(-1).values.isfinite().tolist()
        positions = [rows[place].position - back for place, back in asked]
        tokens = next_tokens(scores, [rows[place].request for place in places], positions)
        found: list[list[int | None]] = [[] for _ in rows]
        for place, token, fine in zip(places, tokens, finite, strict=True):
            found[place].append(token if fine else None)
        taken_back = [0] * len(self._rows)
        for place, row in enumerate(rows):
            row.work.full_heads += len(found[place])
            drafts, row.drafts = row.drafts, []
            stood = 0
            for taken, draft in zip(found[place], [*drafts, None], strict=True):
                if taken is None:
                    row.fault = "the full model's scores are not finite"
                    row.stop_reason = "fault"
                    break
                pieces.append(self._take(row, taken, None, None))
                if taken != draft or row.stop_reason is not None:
                    break
                stood += 1
            row.accepted += stood
            taken_back[going[place]] = len(drafts) - stood
        if any(taken_back):
            self._passes.take_back(taken_back)

    def _take(self, row: _Row, token: int, layer: int | None, confidence: float | None) -> Piece:
        row.tokens.append(token)
        row.exit_layers.append(layer)
        row.confidences.append(confidence)
        text = row.stream.push(token)
        if row.stream.stopped:
            row.stop_reason = "stop_string"
        elif token in self.end_tokens:
            row.stop_reason = "end_of_text"
        elif len(row.tokens) == row.request.max_tokens:
            row.stop_reason = "max_tokens"
        if row.stop_reason is not None:
            text += row.stream.finish()
        return row.number, text

    def _leave(self) -> None:
        """Rows whose answer is complete leave the batch; shadowed ones are compared first."""
        staying = [place for place, row in enumerate(self._rows) if row.stop_reason is None]
        if len(staying) == len(self._rows):
            return
        for place, row in enumerate(self._rows):
            if row.stop_reason not in (None, "fault") and row.request.shadow:
                self._compare(place, row)
        self._rows = [self._rows[place] for place in staying]
        if staying:
            self._passes.keep(staying)

    def _compare(self, place: int, row: _Row) -> None:
        """Shadow an answer; where its states are exact, by running only the layers it skipped."""
        result = _result(row)
        if self.exits.mode == "verify":
            row.agreement = compare(
                self.segments.loaded.tokenizer, row.request, row.tokens, row.tokens, result.text
            )
        elif self.exits.skipped_keys == "propagate":
            row.agreement = shadow(self.segments, [row.request], [result])[0]
            row.work.shadow_layers = self.segments.loaded.depth * (
                len(row.request.prompt) + len(row.tokens) - 1
            )
        else:
            hidden = self._complete(place, row)
            full = full_tokens(self.segments, hidden[-len(row.tokens) :], row.request)
            row.agreement = compare(
                self.segments.loaded.tokenizer, row.request, row.tokens, full, result.text
            )

    def _complete(self, place: int, row: _Row) -> Tensor:
        """Run what still waits; the last layer's states of all columns, [columns, width]."""
        spent = {place: Work()}
        for segment, done in enumerate(self._passes.lanes.done):
            if done[place] < self._passes.lanes.columns:
                self._passes.run([place], segment, spent)
        row.work.shadow_layers = spent[place].layers_run + spent[place].prompt_layers
        return self._passes.final(place)


def generate(
    segments: Segments,
    requests: Sequence[TextRequest],
    exits: TokenExits | None = None,
    on_text: Callable[[int, str], None] = lambda number, text: None,
) -> list[Generated]:
    """Answer a batch of requests; without exits, every token gets full depth.

    Args:
        on_text: Called with a request's number and the next piece of its text, as soon as that is
            certain; the pieces of a request together are its `Generated.text`.

    Raises:
        GenerationError: a request that cannot be run, with the field and its bounds.
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


def _behind(row: _Row) -> range:
    """How far before the newest column the full model is asked: once per draft, oldest first."""
    return range(len(row.drafts), -1, -1)


def _end_tokens(segments: Segments) -> frozenset[int]:
    """The tokens that end an answer, by the model's generation config as in transformers."""
    config = segments.loaded.model.generation_config
    found = None if config is None else config.eos_token_id
    if found is None:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found)


def _result(row: _Row) -> Generated:
    assert row.stop_reason is not None
    return Generated(
        text=row.stream.text,
        tokens=tuple(row.tokens),
        exit_layers=tuple(row.exit_layers),
        confidences=tuple(row.confidences),
        stop_reason=row.stop_reason,
        prompt_tokens=len(row.request.prompt),
        work=row.work,
        drafted=row.drafted,
        accepted=row.accepted,
        agreement=row.agreement,
        fault=row.fault,
    )
