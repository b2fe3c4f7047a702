"""What the text benchmarks run on: a model, prompts to fit exits on, prompts to be asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.reference import load_reference
from benchmarks.reference.sets import read_set
from benchmarks.reference.text_model import lines, text_model
from rollout.engine.generation import TextRequest
from rollout.engine.loading import load_model
from rollout.engine.segments import Segments
from rollout.pilot import MODEL_DIR, TEMPLATE_FILE
from rollout.pilot.texts import generate as generate_tickets

QUICK_TOKENS, TOKENS = 6, 32
REFERENCE_SETS = ("trec", "heading")


@dataclass(frozen=True)
class Subject:
    """A model and its prompts.

    Attributes:
        candidates: Layers that may become exits.
        fitting: Prompts of the training split; the full model's answers to them fit the exits.
        asked: Held-out prompts.
    """

    name: str
    segments: Segments
    candidates: tuple[int, ...]
    fitting: list[TextRequest]
    asked: list[TextRequest]


def subject(quick: bool) -> Subject:
    """The text model on held-out prompts; quick: the pilot's model, which ships with the package.

    Raises:
        RolloutError: the text model must be trained, and the business texts are absent.
    """
    if quick:
        segments = Segments(load_model(Path(MODEL_DIR)))
        template = TEMPLATE_FILE.read_text().rstrip("\n")
        prompts = [template.replace("{{ text }}", t.text) for t in generate_tickets(60, seed=0)]
        requests = _requests(segments, prompts, QUICK_TOKENS)
        return Subject("the pilot's model", segments, (2, 4, 6), requests[:44], requests[44:])
    segments = Segments(load_model(text_model()))
    fitting, asked = (
        _requests(segments, [prompt for prompt, _ in lines(held_out=held_out)[:count]], TOKENS)
        for held_out, count in ((False, 96), (True, 32))
    )
    depth = segments.loaded.depth
    return Subject("the text model", segments, tuple(range(1, depth)), fitting, asked)


def subjects(quick: bool) -> list[Subject]:
    """The text model, and sets of the reference model: prompts with an answer of one token.

    Raises:
        RolloutError: a model is not trained, or the business texts are absent.
    """
    if quick:
        return [subject(quick)]
    segments = Segments(load_reference())
    found = [subject(quick)]
    for name in REFERENCE_SETS:
        texts = read_set(name)
        fitting, asked = (
            _requests(segments, [texts.prompt(row.text) for row in rows[:count]], 1)
            for rows, count in ((texts.train, 96), (texts.held_out, 64))
        )
        layers = tuple(range(2, segments.loaded.depth, 2))
        found.append(Subject(f"the reference model on {name}", segments, layers, fitting, asked))
    return found


def turns(
    ways: Mapping[str, Callable[[TextRequest], object]], requests: Sequence[TextRequest]
) -> dict[str, float]:
    """Sum over requests of the least seconds each way took; they take turns, three times.

    What else the machine does then falls on all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for request in requests:
        tries: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(3):
            for name, way in ways.items():
                started = time.perf_counter()
                way(request)
                tries[name].append(time.perf_counter() - started)
        for name, found in tries.items():
            seconds[name].append(min(found))
    return {name: float(np.sum(found)) for name, found in seconds.items()}


def _requests(segments: Segments, prompts: list[str], tokens: int) -> list[TextRequest]:
    encoded = segments.loaded.tokenizer(prompts)["input_ids"]
    return [TextRequest(tuple(ids), max_tokens=tokens) for ids in encoded]
