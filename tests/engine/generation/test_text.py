"""Text out of tokens: what is streamed is final, whole characters, nothing of a stop string."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.engine.generation import TextRequest, TokenExits, generate, stream
from rollout.engine.generation.text import TextStream
from rollout.engine.loading import LoadedModel
from rollout.engine.segments import Segments

LETTERS = "aé日🙂 x"


def pieces_of(loaded: LoadedModel, tokens: list[int], stop: tuple[str, ...]) -> list[str]:
    text = TextStream(loaded.tokenizer, stop)
    pieces = []
    for token in tokens:
        pieces.append(text.push(token))
        if text.stopped:
            break
    pieces.append(text.finish())
    assert "".join(pieces) == text.text
    return pieces


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet=LETTERS, min_size=1, max_size=20),
    stop=st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=4), max_size=3),
)
def test_pieces_join_to_the_text_before_the_first_stop_string(
    loaded: LoadedModel, text: str, stop: list[str]
) -> None:
    # A byte a token: characters and stop strings both cross token boundaries.
    tokens = [
        token
        for byte in loaded.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
        for letter in byte[0]
        for token in [loaded.tokenizer.convert_tokens_to_ids(letter)]
    ]
    pieces = pieces_of(loaded, tokens, tuple(stop))
    assert not any("\ufffd" in piece for piece in pieces)
    ends = [len(text[: end + 1]) for end in range(len(text)) if _ends_in(text[: end + 1], stop)]
    if not ends:
        assert "".join(pieces) == text
        return
    seen = text[: ends[0]]
    longest = max((s for s in stop if seen.endswith(s)), key=len)
    assert "".join(pieces) == seen[: -len(longest)]


def _ends_in(text: str, stop: list[str]) -> bool:
    return any(text.endswith(s) for s in stop)


@settings(max_examples=40, deadline=None)
@given(tokens=st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_any_tokens_stream_to_what_they_decode_to(loaded: LoadedModel, tokens: list[int]) -> None:
    whole = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
    assert "".join(pieces_of(loaded, tokens, ())) == whole


@pytest.mark.parametrize("kind", ["deferred", "propagate"])
def test_an_answer_ends_before_its_stop_string_and_streams_no_part_of_it(
    segments: Segments, requests: list[TextRequest], kind: str
) -> None:
    exits = TokenExits((3,), (0.1,), skipped_keys=kind)
    for request in requests:
        whole = generate(segments, [request], exits)[0].text
        stop = whole[2:6]
        limited = replace(request, stop=(stop, "never there"))
        answer = generate(segments, [limited], exits)[0]
        assert answer.stop_reason == "stop_string"
        assert answer.text == whole[: whole.find(stop)]
        assert "".join(stream(segments, limited, exits)) == answer.text


def test_streamed_pieces_of_a_batch_are_the_answers(
    segments: Segments, requests: list[TextRequest]
) -> None:
    pieces: dict[int, list[str]] = {number: [] for number in range(len(requests))}
    answers = generate(
        segments,
        requests,
        TokenExits((2, 4), (0.05, 0.1)),
        on_text=lambda number, text: pieces[number].append(text),
    )
    assert ["".join(pieces[number]) for number in pieces] == [a.text for a in answers]
    assert all(len(found) > 1 for found in pieces.values())
