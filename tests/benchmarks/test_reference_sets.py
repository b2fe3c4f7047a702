"""What the reference model is trained and judged on."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reference.hard_tasks import CUPS, HEADINGS, answers_of, generate
from benchmarks.reference.sets import BUSINESS_SETS, DATA, HARD_SETS, is_held_out, read_set
from rollout.values import RolloutError

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no folder shared/data")


@needs_data
@pytest.mark.parametrize("name", BUSINESS_SETS)
def test_about_a_fifth_is_held_out_and_no_held_out_text_is_trained_on(name: str) -> None:
    text_set = read_set(name)
    rows = len(text_set.train) + len(text_set.held_out)
    assert 0.17 < len(text_set.held_out) / rows < 0.23
    assert all(is_held_out(row.id) for row in text_set.held_out)
    assert not any(is_held_out(row.id) for row in text_set.train)
    held_out = {row.text.casefold() for row in text_set.held_out}
    assert not any(row.text.casefold() in held_out for row in text_set.train)


@needs_data
@pytest.mark.parametrize("name", BUSINESS_SETS)
def test_every_label_is_trained_on(name: str) -> None:
    text_set = read_set(name)
    assert {row.label for row in text_set.train} == set(text_set.labels)


@needs_data
def test_only_a_dated_set_has_timestamps() -> None:
    assert all(row.timestamp for row in read_set("airline_stream").train)
    assert not any(row.timestamp for row in read_set("sst2").train)


def test_an_unknown_set_is_told_which_there_are() -> None:
    with pytest.raises(RolloutError, match="cups"):
        read_set("nonsense")


def test_which_rows_are_held_out_never_changes() -> None:
    assert [is_held_out(f"sst2-train-{row}") for row in range(8)] == [
        False, False, False, False, False, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("name", HARD_SETS)
def test_a_generated_row_is_labelled_with_its_last_answer(name: str) -> None:
    text_set = read_set(name)
    assert text_set.held_out == read_set(name).held_out
    for row in text_set.held_out[:200]:
        assert row.label == answers_of(name, row.text)[-1][1]


@pytest.mark.parametrize("name", HARD_SETS)
def test_generated_texts_differ_and_are_alike_for_the_same_seed(name: str) -> None:
    texts = [text for text, _ in generate(name, 500, seed=3)]
    assert len(set(texts)) == 500
    assert texts == [text for text, _ in generate(name, 500, seed=3)]


@given(st.integers(0, 10_000))
def test_the_ball_is_where_exchanging_all_cups_brings_it(seed: int) -> None:
    ((text, answer),) = generate("cups", 1, seed)
    words = text.replace(",", "").split()
    under = {cup: cup == words[0] for cup in CUPS}
    for one, other in zip(words[1::2], words[2::2], strict=True):
        under[one], under[other] = under[other], under[one]
    assert under[answer] and sum(under.values()) == 1


@given(st.integers(0, 10_000))
def test_the_walker_faces_where_a_reflected_plane_turns_it(seed: int) -> None:
    ((text, answer),) = generate("heading", 1, seed)
    start, *moves = text.split()
    # North is 1, east is i; in a mirrored world every turn goes the other way.
    turn = {"left": -1j, "right": 1j, "round": -1 + 0j}
    facing, mirrored = 1j ** HEADINGS.index(start), False
    for move in moves:
        if move == "mirror":
            mirrored = not mirrored
        else:
            facing *= turn[move].conjugate() if mirrored else turn[move]
    assert abs(facing - 1j ** HEADINGS.index(answer)) < 1e-9


def test_a_problem_of_many_steps_cannot_be_answered_from_its_last_ones() -> None:
    """Else a shallow model could: the same last four exchanges, another start, another answer."""
    random = Random(0)
    pairs = [random.sample(CUPS, 2) for _ in range(4)]
    end = " ".join(f"{one} {other} ," for one, other in pairs)
    answers = {answers_of("cups", f"{start} , {end}")[-1][1] for start in CUPS}
    assert answers == set(CUPS)
