"""Few-shot prompts: solved examples in front of the question, in the template's own form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rollout.engine.layers import Prompt, answers_by_layer
from rollout.engine.segments import Segments
from rollout.engine.task import BadRequest, ChoiceTask
from rollout.values import RolloutError

ANSWERED_FOR_EXAMPLES = 64
"""Unlabelled requests among whose answers by the full model the solved examples are looked for."""


@dataclass(frozen=True)
class PastRow:
    """A past request; `label` is the index of its right label, None where unknown."""

    row: int
    text: str
    label: int | None


def few_shot_template(template: str, examples: Sequence[tuple[str, str]]) -> str:
    """The template with solved examples (text, label) in front, each in the template's own form.

    The result is a template like any other: it can be calibrated, served, and cached as a prefix.
    """
    form = template.rstrip(" \n")
    solved = [
        f"{{% with text = {_literal(text)} %}}{form}{{% endwith %}} {{{{ {_literal(label)} }}}}"
        for text, label in examples
    ]
    return "\n\n".join([*solved, template])


def _literal(text: str) -> str:
    """A text as a Jinja string: it may hold quotes, braces and line ends of its own."""
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'


def choose_examples(
    segments: Segments, task: ChoiceTask, requests: list[PastRow], count: int
) -> tuple[list[tuple[str, str]], list[PastRow]]:
    """Solved examples, of different labels as far as there are, and the other requests.

    From the shorter half of the requests, since every prompt carries them; with the full model's
    own answers where too few are labelled.
    """
    if count == 0 or not requests:
        return [], requests
    middle = sorted(len(request.text) for request in requests)[len(requests) // 2]
    short = [request for request in requests if len(request.text) <= middle]
    pool = [(request, request.label) for request in short if request.label is not None]
    if len(pool) < count:
        asked = short[:ANSWERED_FOR_EXAMPLES]
        prompts = [encode_row(task, request) for request in asked]
        answers, _ = answers_by_layer(segments, task, prompts)
        pool = list(zip(asked, answers[:, -1].tolist(), strict=True))
    seen: set[int] = set()
    repeats = []
    for _, label in pool:
        repeats.append(label in seen)
        seen.add(label)
    # A stable sort: the first of each label, then the others.
    order = sorted(range(len(pool)), key=repeats.__getitem__)
    picked = [pool[place] for place in order[:count]]
    taken = {request.text for request, _ in picked}
    rest = [request for request in requests if request.text not in taken]
    return [(request.text, task.labels[label]) for request, label in picked], rest


def encode_row(task: ChoiceTask, request: PastRow) -> Prompt:
    """`task.encode`; a refusal names the row."""
    try:
        return task.encode(request.text)
    except BadRequest as error:
        raise RolloutError(f"row {request.row}: {error}") from error
