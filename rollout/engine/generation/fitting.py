"""Fit token exits to the full model's own answers: heads, confidence, where to exit and when.

No text is labelled: the full model answers the prompts once, and its state at every place of these
answers is what the exits are fitted to. Heads are fitted on two thirds of the answers; confidence,
exit layers and threshold are judged on the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import kl_div

from rollout.engine.confidence import cross_fitted, fit_judge
from rollout.engine.generation.decoding import generate
from rollout.engine.generation.exits import TokenExits, TokenHead
from rollout.engine.generation.passes import SkippedKeys
from rollout.engine.generation.request import TextRequest
from rollout.engine.generation.shadow import states
from rollout.engine.placement import expected_saving, place_exits
from rollout.engine.segments import Segments

BATCH = 32
HEAD_SHARE = 2 / 3
PLACES = 128
"""Places of answers in one step of a translator's tuning."""


@dataclass(frozen=True)
class Forecast:
    """What fitted exits are expected to do, by the left-out answers and their exact states.

    Attributes:
        net_saving: Share of the layers saved, net of probes, catch-up left aside.
        agreement: Share of tokens that are the full model's, given the answer before them.
        tokens: Places of answers that say so.
    """

    net_saving: float
    agreement: float
    tokens: int


def fit_token_exits(
    segments: Segments,
    requests: Sequence[TextRequest],
    candidates: Sequence[int],
    *,
    agreement: float = 0.99,
    skipped_keys: SkippedKeys = "deferred",
    steps: int = 300,
) -> tuple[TokenExits, Forecast]:
    """Exits chosen among candidate layers, with one threshold for all of them.

    Args:
        requests: Prompts of the traffic to come; the full model answers them.
        candidates: Layers, rising, each in [1, depth - 1].
        agreement: Share of tokens that must be the full model's.
        steps: Of a translator's tuning.
    """
    depth, probe = segments.loaded.depth, probe_layers(segments)
    at, final = _states(segments, requests, candidates)
    head_count = round(HEAD_SHARE * len(final))
    fit_final, left_final = torch.cat(final[:head_count]), torch.cat(final[head_count:])
    with torch.inference_mode():
        full = segments.logits(left_final).argmax(-1)
    heads, confidence, agrees = {}, [], []
    for place, layer in enumerate(candidates):
        hidden = torch.cat(at[place][:head_count])
        weight, bias = fit_translator(segments, hidden, fit_final, steps=steps)
        lens = TokenHead(weight, bias)
        with torch.inference_mode():
            known = lens.scores(segments, hidden).argmax(-1) == segments.logits(fit_final).argmax(
                -1
            )
            # Asking pays where the layers it may save, times their probability, exceed its cost.
            ask_from = probe / (depth - layer + probe)
            head = replace(lens, gate=_fit_gate(hidden, known), ask_from=ask_from)
            left = torch.cat(at[place][head_count:])
            scores = head.scores(segments, left)
            right = (scores.argmax(-1) == full).cpu().numpy()
            values = head.features(scores, left).double().cpu().numpy()
        judge = fit_judge("learned", values, right)
        calibration = torch.tensor(judge.calibration, dtype=torch.float32, device=full.device)
        heads[layer] = replace(head, calibration=calibration)
        confidence.append(cross_fitted("learned", values, right))
        agrees.append(right)
    table, hits = np.stack(confidence, axis=1), np.stack(agrees, axis=1)
    limit = 1 - agreement
    allowed = np.ones_like(hits)
    chosen = place_exits(table, hits, allowed, candidates, depth, probe, limit)
    columns = [candidates.index(layer) for layer in chosen]
    found = expected_saving(
        table[:, columns], hits[:, columns], allowed[:, columns], chosen, depth, probe, limit
    )
    exits = TokenExits(
        chosen,
        (found.threshold,) * len(chosen),
        {layer: heads[layer] for layer in chosen},
        skipped_keys,
    )
    return exits, Forecast(found.net_saving, 1 - found.risk, len(hits))


def fit_translator(
    segments: Segments, hidden: Tensor, final: Tensor, *, steps: int, ridge: float = 1e-2
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a tuned lens: least squares first, then the full model's distribution.

    Args:
        hidden, final: States at the exit and after the last layer, [places, width].
    """
    start = Ridge(alpha=ridge * len(hidden) * float(hidden.var())).fit(
        hidden.double().cpu().numpy(), (final - hidden).double().cpu().numpy()
    )
    weight = torch.tensor(start.coef_, dtype=torch.float32, device=hidden.device)
    bias = torch.tensor(start.intercept_, dtype=torch.float32, device=hidden.device)
    weight.requires_grad_(), bias.requires_grad_()
    # States made in inference mode take no part in a gradient: copies do.
    hidden, final = hidden.float().clone(), final.clone()
    optimiser = torch.optim.Adam([weight, bias], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
    generator = torch.Generator().manual_seed(0)
    dtype = segments.loaded.model.dtype
    for _ in range(steps):
        chosen = torch.randperm(len(hidden), generator=generator)[:PLACES]
        rows = hidden[chosen]
        with torch.no_grad():
            goal = segments.logits(final[chosen]).float().log_softmax(-1)
        scores = segments.logits((rows + rows @ weight.T + bias).to(dtype)).float()
        loss = kl_div(scores.log_softmax(-1), goal, log_target=True, reduction="batchmean")
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    return weight.detach().to(dtype), bias.detach().to(dtype)


def _fit_gate(hidden: Tensor, right: Tensor) -> Tensor | None:
    """Logistic regression from states [places, width] to whether the head's token is right."""
    answers = right.cpu().numpy()
    if answers.all() or not answers.any():
        return None
    scaler = StandardScaler()
    design = scaler.fit_transform(hidden.double().cpu().numpy())
    fitted = LogisticRegression(C=0.1, max_iter=300).fit(design, answers)
    weight = fitted.coef_[0] / scaler.scale_
    intercept = fitted.intercept_[0] - weight @ scaler.mean_
    return torch.tensor(np.append(weight, intercept), dtype=torch.float32, device=hidden.device)


def probe_layers(segments: Segments, *, translator: bool = True) -> float:
    """Multiplications of asking one exit head, in layers."""
    loaded = segments.loaded
    layer = sum(weight.numel() for weight in loaded.layers[0].parameters() if weight.dim() > 1)
    head = loaded.unembedding.weight.numel() + translator * loaded.width**2
    return head / layer


@torch.inference_mode()
def _states(
    segments: Segments, requests: Sequence[TextRequest], candidates: Sequence[int]
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """States at each candidate layer and after the last, per answer [tokens, width]."""
    at: list[list[Tensor]] = [[] for _ in candidates]
    final: list[Tensor] = []
    for first in range(0, len(requests), BATCH):
        batch = requests[first : first + BATCH]
        answers = generate(segments, batch)
        *exits, last = states(segments, batch, answers, (*candidates, segments.loaded.depth))
        for kept, found in zip(at, exits, strict=True):
            kept.extend(found)
        final.extend(last)
    return at, final
