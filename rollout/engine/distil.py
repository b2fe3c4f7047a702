"""Fit exit heads to the full model's own answers; no human labels are needed.

The label head has a closed form: ridge regression of the full model's label scores, shrunk towards
the logit lens. Its leave-one-out scores are exact and cost nothing (Golub, Heath and Wahba 1979,
generalized cross-validation, section 1), so that 16 texts are already enough: each is scored by a
head that has not seen it, and what these scores are worth decides how strongly to shrink.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from rollout.engine.heads import head_scores
from rollout.engine.task import ChoiceTask

RIDGES = [10.0**power for power in range(-8, 2)]
"""Penalties tried, relative to the largest eigenvalue of the features' covariance."""
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
LENS_PART = 2 / 3
"""Share of the rows that a tuned lens is fitted on; the others tell what it is worth."""


@dataclass(frozen=True)
class FittedHead:
    """One exit's head.

    Attributes:
        weight, bias: As in `ExitHead`.
        scores: Label scores of rows that the head that made them was not fitted on, [rows, labels].
        honest: Index of these rows, [rows].
    """

    weight: Tensor
    bias: Tensor
    scores: Tensor
    honest: Tensor


@torch.inference_mode()
def fit_logit_lens(task: ChoiceTask, seen: Tensor) -> FittedHead:
    """Nothing to fit: the model's own norm and label rows.

    Args:
        seen: Last-token hidden states at the exit layer, [requests, branches, width].
    """
    nothing = seen.new_empty(0)
    scores = head_scores("logit_lens", task, nothing[None], nothing[None], seen[None])[0]
    return FittedHead(nothing, nothing, scores, torch.arange(len(seen), device=seen.device))


@torch.inference_mode()
def fit_label_head(task: ChoiceTask, seen: Tensor, full_scores: Tensor) -> FittedHead:
    """Ridge regression from normed hidden states to the full model's label scores.

    The prior is the logit lens times one least-squares factor; where labels have several tokens
    there is no such linear prior and the regression shrinks towards the labels' mean scores.

    Args:
        seen: Last-token and mean hidden states at the exit layer, [requests, 2, width].
        full_scores: The full model's label scores, [requests, labels].
    """
    normed = task.loaded.norm(seen).double()
    flat = normed.flatten(1)  # [requests, 2 * width]
    target = full_scores.double() - full_scores.double().mean(-1, keepdim=True)
    prior = torch.zeros(target.shape[1], flat.shape[1], dtype=flat.dtype, device=flat.device)
    if task.rows_per_request == 1:
        lens = task.label_weight.double()
        lens = lens - lens.mean(0)
        expected = normed[:, 0] @ lens.T
        factor = (target * expected).sum() / expected.square().sum().clamp(min=1e-12)
        prior[:, : lens.shape[1]] = lens * factor.clamp(min=0.0)
    residual = target - flat @ prior.T
    mean, offset = flat.mean(0), residual.mean(0)
    centred, wanted = flat - mean, residual - offset
    values, left, right = _decompose(centred)
    # Texts that are all alike leave nothing to decompose.
    largest = float(values.max()) if len(values) else 1.0
    answer = full_scores.argmax(-1)
    rows = len(flat)
    found: tuple[float, Tensor, Tensor] | None = None
    for ridge in RIDGES:
        kept = values / (values + ridge * largest)
        fitted = left @ (kept[:, None] * (left.T @ wanted))
        leverage = (left.square() @ kept + 1 / rows).clamp(max=1 - 1e-6)
        scores = target - (wanted - fitted) / (1 - leverage)[:, None]
        loss = min(float(cross_entropy(scores * scale, answer)) for scale in TEMPERATURES)
        if found is None or loss < found[0]:
            found = loss, kept, scores
    assert found is not None
    _, kept, scores = found
    # right * kept / sqrt(values) * left' wanted: the ridge solution in the singular basis.
    change = (right * (kept / values.sqrt())) @ (left.T @ wanted)  # [2 * width, labels]
    weight = prior + change.T
    bias = offset - change.T @ mean
    return FittedHead(
        weight.float(), bias.float(), scores.float(), torch.arange(rows, device=flat.device)
    )


def _decompose(centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared singular values, left [rows, k] and right [features, k] singular vectors."""
    rows, width = centred.shape
    if rows < width:
        values, left = torch.linalg.eigh(centred @ centred.T)
        kept = values > max(float(values.max()), 1e-9) * 1e-10
        values, left = values[kept], left[:, kept]
        return values, left, centred.T @ left / values.sqrt()
    values, right = torch.linalg.eigh(centred.T @ centred)
    kept = values > max(float(values.max()), 1e-9) * 1e-10
    values, right = values[kept], right[:, kept]
    return values, centred @ right / values.sqrt(), right


def fit_tuned_lens(
    task: ChoiceTask,
    seen: Tensor,
    final_hidden: Tensor,
    full_scores: Tensor,
    *,
    ridge: float = 1e-2,
    epochs: int = 30,
    batch: int = 128,
    learning_rate: float = 2e-3,
    progress: Callable[[], None] = lambda: None,
) -> FittedHead:
    """An affine translator, started from the ridge solution and tuned to the full answers.

    Args:
        seen: Last-token hidden states at the exit layer, [requests, branches, width].
        final_hidden: The same after the last layer, before the norm.
        full_scores: The full model's label scores, [requests, labels].
        ridge: Penalty towards "no translation", relative to the mean feature variance.
        progress: Called once an epoch.
    """
    fit_rows = round(LENS_PART * len(seen))
    honest = torch.arange(fit_rows, len(seen), device=seen.device)
    dtype = task.loaded.model.dtype
    rows = seen[:fit_rows].flatten(0, 1).float()
    start, start_bias = _ridge_translator(rows, final_hidden[:fit_rows].flatten(0, 1), ridge)
    weight, bias = start.clone().requires_grad_(), start_bias.clone().requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    goal = full_scores[:fit_rows].float().log_softmax(-1)
    generator = torch.Generator().manual_seed(0)
    views = seen[:fit_rows].float()
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(fit_rows, generator=generator), batch):
            translated = views[chosen] + views[chosen] @ weight.T + bias
            scores = task.scores(task.loaded.norm(translated.to(dtype)).flatten(0, 1))
            loss = kl_div(
                scores.log_softmax(-1), goal[chosen], log_target=True, reduction="batchmean"
            )
            # Few examples must not carry the map far from the ridge solution.
            anchor = (weight - start).square().mean() + (bias - start_bias).square().mean()
            optimiser.zero_grad()
            (loss + anchor * ridge * weight.shape[0]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        schedule.step()
        progress()
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)
    with torch.inference_mode():
        left_out = seen[honest][None]
        scores = head_scores("tuned_lens", task, weight[None], bias[None], left_out)[0]
    return FittedHead(weight, bias, scores, honest)


def _ridge_translator(hidden: Tensor, final: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weight [width, width] and bias [width] of the least-squares map from hidden to final."""
    flat, target = hidden.double(), final.double()
    mean, target_mean = flat.mean(0), target.mean(0)
    centred = flat - mean
    gram = centred.T @ centred
    penalty = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    offset = (target - target_mean) - centred
    weight = torch.linalg.solve(gram + penalty.to(gram.device), centred.T @ offset).T
    return weight.float(), (target_mean - mean - weight @ mean).float()
