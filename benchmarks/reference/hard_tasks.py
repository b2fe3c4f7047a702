"""Two generated tasks whose answer must be computed step by step: more steps need more layers.

`cups`: a ball under one of five cups, pairs of cups are exchanged, where is it? `heading`: a
walker turns left, right or round, and `mirror` exchanges left and right from there on; where does
it face? A decoder layer can carry the state over about one step (Liu et al. 2023, Transformers
learn shortcuts to automata; Merrill, Sabharwal 2023), so a shallow model must fail at many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

MOST_STEPS = {"cups": 9, "heading": 12}
CUPS = ("red", "blue", "green", "black", "white")
HEADINGS = ("north", "east", "south", "west")
_TURNS = {"left": -1, "right": 1, "round": 2}

Problem = tuple[str, list[str]]
"""A text and the answer after each of its steps; the last one is the label."""


def _cups(random: Random) -> Problem:
    place = random.choice(CUPS)
    parts, answers = [f"{place} ,"], []
    for _ in range(random.randint(1, MOST_STEPS["cups"])):
        one, other = random.sample(CUPS, 2)
        place = {one: other, other: one}.get(place, place)
        parts.append(f"{one} {other} ,")
        answers.append(place)
    return " ".join(parts), answers


def _heading(random: Random) -> Problem:
    facing = random.randrange(4)
    sense = 1
    parts, answers = [HEADINGS[facing]], []
    for _ in range(random.randint(1, MOST_STEPS["heading"])):
        move = random.choice((*_TURNS, "mirror"))
        sense = -sense if move == "mirror" else sense
        facing = (facing + sense * _TURNS.get(move, 0)) % 4
        parts.append(move)
        answers.append(HEADINGS[facing])
    return " ".join(parts), answers


HARD_TASKS: dict[str, Callable[[Random], Problem]] = {"cups": _cups, "heading": _heading}


def generate(name: str, count: int, seed: int) -> Iterator[Problem]:
    """`count` different problems of one task."""
    random = Random(f"{name} {seed}")
    seen: set[str] = set()
    while len(seen) < count:
        text, answers = HARD_TASKS[name](random)
        if text not in seen:
            seen.add(text)
            yield text, answers
