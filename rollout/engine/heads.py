"""Exit heads: a translator per exit layer, the model's own final norm and its label rows.

The translator is the affine map of the tuned lens (Belrose et al. 2023, section 3), started from
the ridge solution towards the final hidden state and tuned to the full model's own answers; no
human labels are needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import kl_div

from rollout.engine.criteria import CRITERIA, features
from rollout.engine.task import ChoiceTask
from rollout.values import PolicyError


@dataclass(frozen=True)
class ExitHead:
    """Turns the hidden state at one layer into label scores and a confidence.

    Attributes:
        weight: Translator, [width, width], added to the identity.
        bias: [width].
        calibration: Logistic weights of the criterion's features, intercept last, [features + 1].
    """

    weight: Tensor
    bias: Tensor
    calibration: Tensor

    def scores(self, task: ChoiceTask, hidden: Tensor) -> Tensor:
        """Label scores [requests, labels] from last-token hidden states [rows, width]."""
        translated = hidden + hidden @ self.weight.T + self.bias
        return task.scores(task.loaded.norm(translated))

    def confidence(self, criterion: str, scores: Tensor) -> Tensor:
        """Estimated probability that the best label is the full-depth answer, [requests]."""
        values = features(criterion, scores)
        return torch.sigmoid(values @ self.calibration[:-1] + self.calibration[-1])


@dataclass(frozen=True)
class ExitHeads:
    """The heads of one domain and model revision, kept as one safetensors file."""

    heads: dict[int, ExitHead]
    criterion: str
    model_revision: str
    task_fingerprint: str

    def save(self, folder: Path) -> str:
        """Write the heads under their content hash and return it (SHA-256, hex)."""
        tensors = {
            f"{layer}.{name}": getattr(head, name).detach().cpu().contiguous()
            for layer, head in self.heads.items()
            for name in ("weight", "bias", "calibration")
        }
        about = {
            "criterion": self.criterion,
            "model_revision": self.model_revision,
            "task_fingerprint": self.task_fingerprint,
        }
        content = safetensors.torch.save(tensors, {"heads": json.dumps(about, sort_keys=True)})
        digest = hashlib.sha256(content).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{digest}.safetensors"
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_bytes(content)
            partial.replace(path)
        return digest


def load_heads(folder: Path, digest: str, task: ChoiceTask) -> ExitHeads:
    """Read heads by content hash and check that they belong to this model and task.

    Raises:
        PolicyError: missing or altered file, heads of another model revision or task, wrong shape.
    """
    path = folder / f"{digest}.safetensors"
    again = "run `rollout calibrate` for this model"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PolicyError(
            f"exit heads {path} cannot be read ({error.strerror}): {again}"
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise PolicyError(f"exit heads {path} do not match their content hash: {again}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["heads"])
        tensors = safetensors.torch.load(content)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise PolicyError(f"exit heads {path} are not a heads file: {error}") from error
    if about["model_revision"] != task.loaded.revision:
        made_for, here = about["model_revision"][:12], task.loaded.revision[:12]
        raise PolicyError(
            f"exit heads {digest[:12]} were made for model revision {made_for}, "
            f"the model here is {here}: {again}"
        )
    if about["task_fingerprint"] != task.fingerprint:
        raise PolicyError(
            f"exit heads {digest[:12]} were made for other labels or another template: {again}"
        )
    if about["criterion"] not in CRITERIA:
        raise PolicyError(f"exit heads {digest[:12]}: unknown criterion {about['criterion']!r}")
    heads = {}
    for layer in sorted({int(name.split(".")[0]) for name in tensors}):
        head = ExitHead(*(tensors[f"{layer}.{name}"] for name in ("weight", "bias", "calibration")))
        _check_shapes(layer, head, task.loaded.width, len(CRITERIA[about["criterion"]]))
        device = task.loaded.device
        heads[layer] = ExitHead(
            head.weight.to(device, task.loaded.model.dtype),
            head.bias.to(device, task.loaded.model.dtype),
            head.calibration.to(device),
        )
    return ExitHeads(heads, about["criterion"], about["model_revision"], about["task_fingerprint"])


def _check_shapes(layer: int, head: ExitHead, width: int, feature_count: int) -> None:
    expected = {
        "weight": (width, width),
        "bias": (width,),
        "calibration": (feature_count + 1,),
    }
    for name, shape in expected.items():
        found = tuple(getattr(head, name).shape)
        if found != shape:
            raise PolicyError(f"exit head at layer {layer}: {name} is {found}, expected {shape}")


def fit_translator(
    task: ChoiceTask,
    hidden: Tensor,
    final_hidden: Tensor,
    full_scores: Tensor,
    *,
    ridge: float = 1e-2,
    epochs: int = 30,
    batch: int = 128,
    learning_rate: float = 2e-3,
    progress: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Fit one exit layer's translator (weight, bias).

    Args:
        hidden: Last-token hidden states at the exit layer, [requests, branches, width].
        final_hidden: The same after the last layer, before the norm.
        full_scores: The full model's label scores, [requests, labels].
        ridge: Penalty towards "no translation", relative to the mean feature variance.
        progress: Called once an epoch.
    """
    flat, target = hidden.flatten(0, 1).double(), final_hidden.flatten(0, 1).double()
    mean, target_mean = flat.mean(0), target.mean(0)
    centred = flat - mean
    gram = centred.T @ centred
    penalty = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    offset = (target - target_mean) - centred
    start = torch.linalg.solve(gram + penalty.to(gram.device), centred.T @ offset).T
    start_bias = target_mean - mean - start @ mean
    weight = start.float().clone().requires_grad_()
    bias = start_bias.float().clone().requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    goal = full_scores.float().log_softmax(-1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(hidden), generator=generator), batch):
            rows = hidden[chosen].flatten(0, 1).float()
            translated = rows + rows @ weight.T + bias
            scores = task.scores(task.loaded.norm(translated.to(task.loaded.model.dtype)))
            loss = kl_div(
                scores.log_softmax(-1), goal[chosen], log_target=True, reduction="batchmean"
            )
            # Few examples must not carry the map far from the ridge solution.
            anchor = (weight - start.float()).square().mean() + (
                bias - start_bias.float()
            ).square().mean()
            optimiser.zero_grad()
            (loss + anchor * ridge * len(gram)).backward()
            optimiser.step()
        schedule.step()
        progress()
    return weight.detach(), bias.detach()
