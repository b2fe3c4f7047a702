"""Exit heads from their files: safetensors under their content hash, checked when read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rollout.engine.criteria import CRITERIA
from rollout.engine.heads import HEAD_KINDS, PARTS, ExitHead, ExitHeads
from rollout.engine.task import ChoiceTask
from rollout.values import PolicyError

AGAIN = "run `rollout calibrate` for this model"


def load_heads(folder: Path, digest: str, task: ChoiceTask) -> ExitHeads:
    """Read heads by content hash and check that they belong to this model and task.

    Raises:
        PolicyError: missing or altered file, heads of another model revision or task, a kind or
            criterion that is not known here, wrong shape, NaN or infinity.
    """
    path = folder / f"{digest}.safetensors"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PolicyError(
            f"exit heads {path} cannot be read ({error.strerror}): {AGAIN}"
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise PolicyError(f"exit heads {path} do not match their content hash: {AGAIN}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["heads"])
        tensors = safetensors.torch.load(content)
        layers = sorted({int(name.split(".")[0]) for name in tensors})
        found = {layer: {name: tensors[f"{layer}.{name}"] for name in PARTS} for layer in layers}
    except (SafetensorError, KeyError, ValueError) as error:
        raise PolicyError(f"exit heads {path} are not a heads file: {error!r}; {AGAIN}") from error
    _check_origin(about, digest, task)
    kind, criterion = about["kind"], about["criterion"]
    heads = {}
    for layer, parts in found.items():
        _check(layer, parts, _shapes(kind, criterion, task))
        heads[layer] = _placed(kind, parts, task)
    return ExitHeads(heads, criterion, about["model_revision"], about["task_fingerprint"], kind)


def _check_origin(about: dict[str, str], digest: str, task: ChoiceTask) -> None:
    name = f"exit heads {digest[:12]}"
    if about["model_revision"] != task.loaded.revision:
        made_for, here = about["model_revision"][:12], task.loaded.revision[:12]
        raise PolicyError(
            f"{name} were made for model revision {made_for}, the model here is {here}: {AGAIN}"
        )
    if about["task_fingerprint"] != task.fingerprint:
        raise PolicyError(f"{name} were made for other labels or another template: {AGAIN}")
    if about.get("criterion") not in CRITERIA:
        raise PolicyError(f"{name}: unknown criterion {about.get('criterion')!r}: {AGAIN}")
    if about.get("kind") not in HEAD_KINDS:
        raise PolicyError(f"{name}: unknown kind {about.get('kind')!r}: {AGAIN}")


def _shapes(kind: str, criterion: str, task: ChoiceTask) -> dict[str, tuple[int | None, ...]]:
    width, labels, values = task.loaded.width, len(task.labels), len(CRITERIA[criterion])
    weight: tuple[int | None, ...] = (width, width)
    bias: tuple[int | None, ...] = (width,)
    if kind == "label_head":
        weight, bias = (labels, 2 * task.label_weight.shape[1]), (labels,)
    elif kind == "logit_lens":
        weight = bias = (0,)
    return {
        "weight": weight,
        "bias": bias,
        "calibration": (values + 1,),
        "support": (None, values + 1),
    }


def _check(layer: int, parts: dict[str, Tensor], shapes: dict[str, tuple[int | None, ...]]) -> None:
    for name, expected in shapes.items():
        shape = tuple(parts[name].shape)
        if len(shape) != len(expected) or any(
            wanted is not None and wanted != size
            for size, wanted in zip(shape, expected, strict=True)
        ):
            raise PolicyError(f"exit head at layer {layer}: {name} is {shape}, expected {expected}")
        if not parts[name].isfinite().all():
            raise PolicyError(f"exit head at layer {layer}: {name} holds NaN or infinity: {AGAIN}")


def _placed(kind: str, parts: dict[str, Tensor], task: ChoiceTask) -> ExitHead:
    device = task.loaded.device
    # A translator works in the model's number format, everything after it in float32.
    dtype = task.loaded.model.dtype if kind == "tuned_lens" else torch.float32
    return ExitHead(
        parts["weight"].to(device, dtype),
        parts["bias"].to(device, dtype),
        parts["calibration"].to(device),
        parts["support"].to(device),
    )
