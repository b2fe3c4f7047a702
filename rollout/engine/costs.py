"""What layers, probes and gathers cost here, measured: rebatching pays or it does not happen."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rollout.engine.heads import ExitHeads, look, view_weights
from rollout.engine.prefix import Prefix
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask

REPEATS = 15
FEWEST_REPEATS, ENOUGH_S = 3, 1.0
"""A slow model is measured at least so often, and no more after so many seconds."""
LOOP_REPEATS, LOOP_SECONDS = 20, 0.3
"""Each part of the loop is timed so often, or so long."""
FEW, MANY = (1, 16), (4, 32)
"""Batches (rows, tokens) between which a layer's time is taken to be linear in its tokens."""


@dataclass(frozen=True)
class Costs:
    """Measured here: milliseconds per layer and request, and a probe's cost in layers."""

    layer_ms: float
    probe_cost: float


@dataclass(frozen=True)
class LoopCosts:
    """How one layer's time grows with the batch.

    Attributes:
        call_ms: Of a layer, however small the batch.
        token_ms: Of each token of a batch (rows x padded length) on top.
        gather_ms: Of taking rows out of a batch.
    """

    call_ms: float
    token_ms: float
    gather_ms: float

    def compacting_pays(self, layers: int, tokens: int, tokens_after: int) -> bool:
        """Whether the layers up to the next exit save more than taking the rows out costs."""
        return layers * self.token_ms * (tokens - tokens_after) > self.gather_ms

    def split(self, lengths: Sequence[int], depth: int, stops: int) -> list[list[int]]:
        """Places of rows in batches of similar length, where that saves more than a batch costs.

        The cheapest division of the rows in order of length, by dynamic programming; the shortest
        come first.

        Args:
            lengths: Tokens of each row.
            depth: Layers to run.
            stops: Exits at which each batch is asked and perhaps gathered anew.
        """
        # Twice: smaller batches use the processor worse, too.
        batch = 2 * (self.call_ms + self.gather_ms * (stops + 1) / depth)
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        cheapest, start = [0.0], [0]
        for end in range(1, len(order) + 1):
            longest = lengths[order[end - 1]]
            cost, begin = min(
                (cheapest[begin] + batch + self.token_ms * longest * (end - begin), begin)
                for begin in range(end)
            )
            cheapest.append(cost)
            start.append(begin)
        parts, end = [], len(order)
        while end:
            parts.append(sorted(order[start[end] : end]))
            end = start[end]
        return parts[::-1]


_MEASURED: weakref.WeakKeyDictionary[Segments, LoopCosts] = weakref.WeakKeyDictionary()


def loop_costs(segments: Segments) -> LoopCosts:
    """Measured at the first call for this model in this process."""
    if segments not in _MEASURED:
        _MEASURED[segments] = _measure_loop(segments)
    return _MEASURED[segments]


@torch.inference_mode()
def _measure_loop(segments: Segments) -> LoopCosts:
    few_s, many_s = (_layer_s(segments, rows, tokens) for rows, tokens in (FEW, MANY))
    few, many = FEW[0] * FEW[1], MANY[0] * MANY[1]
    token_s = max(many_s - few_s, 0.0) / (many - few)
    rows, tokens = MANY
    # Of unlike length, and the longest leaves: the batch must be masked and cut anew.
    state = segments.start([[0] * (tokens // (row + 1)) for row in range(rows)])
    gather_s = _fastest(lambda: segments.compact(state, range(1, rows)).hidden[0, 0, 0].item())
    return LoopCosts(
        call_ms=1000 * max(few_s - few * token_s, 0.0),
        token_ms=1000 * token_s,
        gather_ms=1000 * gather_s,
    )


@torch.inference_mode()
def worthwhile_prefix(segments: Segments, task: ChoiceTask) -> Prefix | None:
    """The template's beginning, computed once, where a batch is measured to be faster with it."""
    if not task.prefix_tokens:
        return None
    prefix = segments.cache_prefix(task.prefix_tokens)
    rows, tokens = MANY
    own = [[0] * (tokens // (row + 1)) for row in range(rows)]
    whole = [[*prefix.tokens, *prompt] for prompt in own]
    if max(map(len, whole)) > segments.loaded.context_tokens:
        return None

    def layers(prompts: list[list[int]], before: Prefix | None) -> float:
        state = segments.start(prompts, prefix=before)
        return _fastest(lambda: segments.advance(state, 1).hidden[0, 0, 0].item())

    return prefix if layers(own, prefix) < layers(whole, None) else None


def _layer_s(segments: Segments, rows: int, tokens: int) -> float:
    state = segments.start([[0] * min(tokens, segments.loaded.context_tokens)] * rows)
    return _fastest(lambda: segments.advance(state, 1).hidden[0, 0, 0].item())


def _fastest(run: Callable[[], object]) -> float:
    """What the machine does when nothing else runs on it: the fastest of several runs."""
    run()
    times: list[float] = []
    while len(times) < 3 or (len(times) < LOOP_REPEATS and sum(times) < LOOP_SECONDS):
        times.append(_seconds(run))
    return min(times)


@torch.inference_mode()
def measure_costs(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[list[list[int]]],
    heads: ExitHeads,
    repeats: int = REPEATS,
) -> Costs:
    """Wall-clock time of a layer and of a probe for one batch, per request.

    The fastest of the repeats counts, layers and probes taking turns: what the machine does when
    nothing else runs on it.
    """
    state = segments.start([branch for prompt in prompts for branch in prompt])
    depth = segments.loaded.depth
    middle = segments.advance(state, depth // 2)
    tokens = middle.hidden.shape[1]
    weights = view_weights([task.own_tokens(prompt) for prompt in prompts], tokens, middle.hidden)
    seen = look(heads.kind, task, middle.hidden, weights)
    earlier = heads.ask(task, 0, seen[None], None).earlier

    def probe() -> None:
        seen = look(heads.kind, task, middle.hidden, weights)
        asked = heads.ask(task, 0, seen[None], earlier)
        torch.stack([asked.answer.float(), asked.log_odds]).tolist()

    def layers() -> None:
        segments.advance(state, depth).hidden[0, 0, 0].item()

    times: list[tuple[float, float]] = []
    while len(times) < repeats:
        times.append((_seconds(layers), _seconds(probe)))
        if len(times) >= FEWEST_REPEATS and sum(map(sum, times)) > ENOUGH_S:
            break
    layer_s = min(layers_s for layers_s, _ in times) / depth
    return Costs(
        layer_ms=1000 * layer_s / len(prompts),
        probe_cost=min(probe_s for _, probe_s in times) / layer_s,
    )


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
