"""Answer a batch of choice requests: rows leave as they exit, shadowed rows run on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from scipy.special import expit, logit
from torch import Tensor

from rollout.engine.costs import LoopCosts, loop_costs
from rollout.engine.criteria import Earlier
from rollout.engine.heads import ExitHeads, look, view_weights
from rollout.engine.prefix import Prefix
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask
from rollout.values import DepthTrace, ExitPoint, ExitPolicy


@dataclass(frozen=True)
class RowPlan:
    """What may happen to one request.

    Attributes:
        may_exit: Early arm: the request is answered at the first confident exit.
        run_on: Shadow: after its exit the row stays in the batch for the comparison.
    """

    may_exit: bool = False
    run_on: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer to one request, given at `exit_layer` (None: full depth)."""

    label: int
    exit_layer: int | None
    confidence: float | None
    layers_run: int


@dataclass(frozen=True)
class RowResult:
    """Everything known of one request when its batch is done.

    Attributes:
        answer: None where the full model's own scores were not finite.
        trace: Where the row ran to full depth, else None.
        shadow_layers: Layers run past the exit, for the comparison only.
        probes: Exit heads asked.
        fault: A numerical fault that kept the row from exiting, in words.
    """

    answer: Answer | None
    trace: DepthTrace | None
    shadow_layers: int
    probes: int
    prompt_tokens: int
    fault: str | None


@dataclass
class _Row:
    plan: RowPlan
    prompt_tokens: int
    own_tokens: int
    """After the template's beginning, which all prompts share."""
    points: list[ExitPoint] = field(default_factory=list)
    answer: Answer | None = None
    full_answer: int | None = None
    reached_end: bool = False
    fault: str | None = None

    @property
    def done(self) -> bool:
        """Answered, and nothing more to be learnt from it."""
        return self.answer is not None and not self.plan.run_on


OnAnswer = Callable[[int, Answer], None]


@torch.inference_mode()
def answer_batch(
    segments: Segments,
    task: ChoiceTask,
    prompts: Sequence[list[list[int]]],
    plans: Sequence[RowPlan],
    policy: ExitPolicy | None,
    heads: ExitHeads | None,
    on_answer: OnAnswer = lambda row, answer: None,
    *,
    costs: LoopCosts | None = None,
    prefix: Prefix | None = None,
) -> list[RowResult]:
    """Run a batch through the layers; `on_answer(row, answer)` is called as each row is answered.

    Rows of unlike length go in batches of their own, and rows that are done are taken out, where
    that saves more time than it costs. Layers past the last running row's exit are not computed.
    A row whose confidence is not finite, or cannot be told from the threshold, does not exit.
    Without a policy every row gets full depth and an empty trace.

    Args:
        prompts: `task.encode(text)` of each request.
        plans: One per request.
        policy, heads: What is live; both or neither.
        costs: What decides on rebatching; measured once per model where not given.
        prefix: The template's beginning, cached; prompts that begin otherwise run in whole.

    Raises:
        ValueError: the policy's exit layers are not the heads'.
    """
    shared = [task.shared_tokens(prompt) for prompt in prompts]
    rows = [
        _Row(plan, len(prompt[0]), len(prompt[0]) - before)
        for prompt, plan, before in zip(prompts, plans, shared, strict=True)
    ]
    # All or none: rows with and without the prefix do not share a batch.
    prefix = prefix if all(shared) else None
    live = None
    if policy is not None and heads is not None:
        live = _Live.of(policy, heads, task)
    costs = costs or loop_costs(segments)
    stops = len(live.cuts) if live is not None and any(row.plan.may_exit for row in rows) else 0
    lengths = [row.prompt_tokens if prefix is None else row.own_tokens for row in rows]
    for places in costs.split(lengths, segments.loaded.depth, stops):
        part = [(place, rows[place]) for place in places]
        chosen = [prompts[place] for place in places]
        _Batch(segments, task, chosen, part, live, on_answer, prefix).run(costs)
    return [_result(row, segments.loaded.depth) for row in rows]


@dataclass(frozen=True)
class _Live:
    """A policy with its heads. `cuts`: log-odds from which each exit is taken."""

    policy: ExitPolicy
    heads: ExitHeads
    cuts: tuple[float, ...]

    @classmethod
    def of(cls, policy: ExitPolicy, heads: ExitHeads, task: ChoiceTask) -> _Live:
        if policy.exit_layers != heads.layers:
            # What an exit is worth rests on what the exit before it said: none can be left out.
            raise ValueError(f"exit layers {policy.exit_layers}, but heads at {heads.layers}")
        apart = task.tie
        return cls(policy, heads, tuple(float(logit(each)) + apart for each in policy.thresholds))

    def point(self, exit_: int, label: float, log_odds: float) -> tuple[ExitPoint, bool]:
        """What an exit says, and whether it may be taken.

        The confidence lies at or above the threshold exactly where the exit is taken, so that a
        replay of the trace decides as was decided here.
        """
        threshold = self.policy.thresholds[exit_]
        confidence = float(expit(log_odds))
        taken = log_odds >= self.cuts[exit_]
        if taken:
            confidence = max(confidence, threshold)
        elif confidence >= threshold:
            confidence = math.nextafter(threshold, 0.0)
        point = ExitPoint(self.heads.layers[exit_], int(label), confidence)
        return point, taken and point.answer not in self.policy.never_early


class _Batch:
    """Rows that go through the layers together."""

    def __init__(
        self,
        segments: Segments,
        task: ChoiceTask,
        prompts: Sequence[list[list[int]]],
        rows: Sequence[tuple[int, _Row]],
        live: _Live | None,
        on_answer: OnAnswer,
        prefix: Prefix | None,
    ) -> None:
        self._segments = segments
        self._task = task
        self._rows = list(rows)
        """(number of the request, row), in the order of the batch."""
        self._live = live
        self._on_answer = on_answer
        skipped = 0 if prefix is None else len(prefix.tokens)
        branches = [branch[skipped:] for prompt in prompts for branch in prompt]
        self._state = segments.start(branches, prefix=prefix)
        self._weights: Tensor | None = None
        if live is not None and live.heads.kind == "label_head":
            hidden = self._state.hidden
            lengths = [row.own_tokens for _, row in rows]
            self._weights = view_weights(lengths, hidden.shape[1], hidden)
        self._earlier: Earlier | None = None
        self._deciding = sum(row.plan.may_exit for _, row in rows)
        """Rows that may exit and have not."""

    def run(self, costs: LoopCosts) -> None:
        depth = self._segments.loaded.depth
        layers = () if self._live is None else self._live.heads.layers
        heard = 0
        while heard < len(layers) and self._deciding:
            layer = layers[heard]
            self._state = self._segments.advance(self._state, layer)
            self._hear(heard, self._seen(self._state.hidden)[None])
            heard += 1
            if all(row.done for _, row in self._rows):
                return
            following = layers[heard] if self._deciding and heard < len(layers) else depth
            self._compact(following - layer, costs)
        # Nobody waits for what the other exits say: they are asked together, at the end.
        unheard, seen = frozenset(layers[heard:]), []

        def visit(layer: int, hidden: Tensor) -> None:
            if layer in unheard:
                seen.append(self._seen(hidden))

        self._state = self._segments.advance(self._state, depth, visit if unheard else None)
        self._finish(depth)
        if seen:
            self._hear(heard, torch.stack(seen))

    def _seen(self, hidden: Tensor) -> Tensor:
        assert self._live is not None
        return look(self._live.heads.kind, self._task, hidden, self._weights)

    def _hear(self, first: int, seen: Tensor) -> None:
        """Ask consecutive exits, [exits, requests, views, width]: one read-back for all of them."""
        assert self._live is not None
        asked = self._live.heads.ask(self._task, first, seen, self._earlier)
        self._earlier = asked.earlier
        for exit_, said in enumerate(_read(asked.answer, asked.log_odds), start=first):
            for (number, row), (label, log_odds) in zip(self._rows, said, strict=True):
                if row.done and not row.reached_end:
                    continue
                point, taken = self._live.point(exit_, label, log_odds)
                row.points.append(point)
                if math.isnan(log_odds):
                    row.fault = row.fault or f"the confidence at layer {point.layer} is not finite"
                elif taken and row.plan.may_exit and row.answer is None:
                    row.answer = Answer(point.answer, point.layer, point.confidence, point.layer)
                    self._deciding -= 1
                    self._on_answer(number, row.answer)

    def _compact(self, layers: int, costs: LoopCosts) -> None:
        """Take the rows that are done out, where that pays within so many layers."""
        staying = [place for place, (_, row) in enumerate(self._rows) if not row.done]
        if len(staying) == len(self._rows):
            return
        branches, (_, tokens) = self._task.rows_per_request, self._state.hidden.shape[:2]
        padded = max(self._rows[place][1].prompt_tokens for place in staying)
        after = len(staying) * branches * min(padded, tokens)
        if not costs.compacting_pays(layers, self._state.rows * tokens, after):
            return
        kept = [place * branches + branch for place in staying for branch in range(branches)]
        self._state = self._segments.compact(self._state, kept)
        self._rows = [self._rows[place] for place in staying]
        index = torch.tensor(staying, device=self._state.hidden.device)
        if self._weights is not None:
            self._weights = self._weights.index_select(0, index)
        if self._earlier is not None:
            self._earlier = self._earlier.rows(index)

    def _finish(self, depth: int) -> None:
        scores = self._task.scores(self._segments.loaded.norm(self._state.last_hidden))
        (said,) = _read(scores.argmax(-1)[None], scores.sum(-1)[None])
        for (number, row), (best, total) in zip(self._rows, said, strict=True):
            if row.done:
                continue
            row.reached_end = True
            if not math.isfinite(total):
                row.fault = "the full model's label scores are not finite"
                continue
            row.full_answer = int(best)
            if row.answer is None:
                row.answer = Answer(row.full_answer, None, None, depth)
                self._on_answer(number, row.answer)


def _read(answer: Tensor, value: Tensor) -> list[list[list[float]]]:
    """One read-back from the device: (answer, value) per exit and row."""
    both = torch.stack([answer.to(torch.float64), value.to(torch.float64)], dim=-1)
    read: list[list[list[float]]] = both.tolist()
    return read


def _result(row: _Row, depth: int) -> RowResult:
    trace, shadow_layers = None, 0
    if row.full_answer is not None:
        trace = DepthTrace(tuple(row.points), row.full_answer, depth)
    if row.answer is not None and row.reached_end:
        shadow_layers = depth - row.answer.layers_run
    return RowResult(
        row.answer, trace, shadow_layers, len(row.points), row.prompt_tokens, row.fault
    )
