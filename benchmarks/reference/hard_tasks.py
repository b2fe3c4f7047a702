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


def _cups(random: Random) -> str:
    swaps = (random.sample(CUPS, 2) for _ in range(random.randint(1, MOST_STEPS["cups"])))
    return " ".join([f"{random.choice(CUPS)} ,", *(f"{one} {other} ," for one, other in swaps)])


def _heading(random: Random) -> str:
    steps = random.randint(1, MOST_STEPS["heading"])
    return " ".join([random.choice(HEADINGS), *random.choices((*_TURNS, "mirror"), k=steps)])


HARD_TASKS: dict[str, Callable[[Random], str]] = {"cups": _cups, "heading": _heading}


def generate(name: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """`count` different texts of one task, with their answers."""
    random = Random(f"{name} {seed}")
    seen: set[str] = set()
    while len(seen) < count:
        text = HARD_TASKS[name](random)
        if text not in seen:
            seen.add(text)
            yield text, answers_of(name, text)[-1][1]


def answers_of(name: str, text: str) -> list[tuple[int, str]]:
    """The answer after each step of a text: (index of the step's last word, answer).

    Training asks for them all, which teaches the task far sooner than its last answer alone.

    >>> answers_of("cups", "red , red blue , blue green ,")
    [(4, 'blue'), (7, 'green')]
    """
    words = text.split()
    answers = []
    if name == "cups":
        place = words[0]
        for start in range(2, len(words), 3):
            one, other = words[start : start + 2]
            place = {one: other, other: one}.get(place, place)
            answers.append((start + 2, place))
        return answers
    facing, sense = HEADINGS.index(words[0]), 1
    for start, move in enumerate(words[1:], 1):
        sense = -sense if move == "mirror" else sense
        facing = (facing + sense * _TURNS.get(move, 0)) % 4
        answers.append((start, HEADINGS[facing]))
    return answers
