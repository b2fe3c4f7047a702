"""Full-depth passes over past requests that keep what exit heads are fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rollout.engine.heads import look, view_weights
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask

BATCH = 32


@dataclass(frozen=True)
class Collected:
    """What the layers hold of each request, in the order of the prompts.

    Attributes:
        last: By exit layer: last-token hidden states, [requests, branches, width].
        text: By exit layer: last-token and mean hidden states, [requests, 2, width].
        final: Last-token hidden states after the last layer, [requests, branches, width].
        scores: The full model's label scores, [requests, labels].
        no_label: Requests whose most probable next token, of the whole vocabulary, begins no label.
        depth: Layers of the model.
    """

    last: dict[int, Tensor]
    text: dict[int, Tensor]
    final: Tensor
    scores: Tensor
    no_label: int
    depth: int

    @property
    def requests(self) -> int:
        return len(self.scores)

    def seen(self, kind: str, layer: int) -> Tensor:
        """What a head of this kind looks at, [requests, views, width]."""
        return (self.text if kind == "label_head" else self.last)[layer]


def by_length(prompts: Sequence[list[list[int]]]) -> list[list[int]]:
    """Places of the prompts in batches of similar length, shortest first."""
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place][0]))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


@torch.inference_mode()
def collect(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[list[list[int]]],
    layers: Sequence[int],
    step: Callable[[], None] = lambda: None,
) -> Collected:
    """Run the prompts to full depth.

    Args:
        prompts: `task.encode(text)` of each request; at least one.
        step: Called after each batch.
    """
    last: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    text: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    final: list[Tensor] = []
    scores: list[Tensor] = []
    no_label = 0
    batches = by_length(prompts)
    for places in batches:
        chosen = [prompts[place] for place in places]
        state = segments.start([branch for prompt in chosen for branch in prompt])
        lengths = [task.own_tokens(prompt) for prompt in chosen]
        weights = view_weights(lengths, state.hidden.shape[1], state.hidden)
        for layer in layers:
            state = segments.advance(state, layer)
            last[layer].append(look("logit_lens", task, state.hidden, None))
            text[layer].append(look("label_head", task, state.hidden, weights))
        state = segments.advance(state, segments.loaded.depth)
        final.append(look("logit_lens", task, state.hidden, None))
        normed = segments.loaded.norm(state.last_hidden)
        scores.append(task.scores(normed))
        no_label += int((~task.top_is_label(normed)).sum())
        step()
    order = torch.tensor([place for places in batches for place in places])
    back = order.argsort().to(segments.loaded.device)

    def joined(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)[back]

    return Collected(
        {layer: joined(parts) for layer, parts in last.items()},
        {layer: joined(parts) for layer, parts in text.items()},
        joined(final),
        joined(scores),
        no_label,
        segments.loaded.depth,
    )
