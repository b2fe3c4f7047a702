"""Load a causal language model from a directory, and refuse what the engine cannot run exactly."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from rollout.engine.families import FAMILIES, Parts, take_apart
from rollout.engine.quantization import loading_options, quantize_layers
from rollout.values import RolloutError

MAX_DIFFERENCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of a logit, relative to the largest logit, between our loop and `model()`."""


class ModelRefused(RolloutError):
    """A checkpoint that cannot be loaded, or whose layers the engine cannot run exactly."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its tokenizer (padding on the left) and its revision."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    revision: str
    quantization: str = "none"

    @cached_property
    def parts(self) -> Parts:
        return take_apart(self.model)

    @property
    def base(self) -> nn.Module:
        return self.model.base_model

    @property
    def layers(self) -> nn.ModuleList:
        return self.parts.layers

    @property
    def norm(self) -> nn.Module:
        """All that stands between a layer's hidden states and the unembedding."""
        return self.parts.norm

    @property
    def unembedding(self) -> nn.Linear:
        """Vocabulary logits of normed hidden states, before `capped`."""
        return self.parts.unembedding

    def capped(self, logits: Tensor) -> Tensor:
        """Logits as the model itself soft-caps them, if it does; any shape."""
        return self.parts.capped(logits)

    @property
    def depth(self) -> int:
        return len(self.layers)

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        return int(self.model.config.vocab_size)

    @property
    def context_tokens(self) -> int:
        return int(self.model.config.max_position_embeddings)

    @cached_property
    def device(self) -> torch.device:
        return self.model.device


def load_model(
    directory: Path, *, device: str = "auto", dtype: str = "auto", quantization: str = "none"
) -> LoadedModel:
    """Load a checkpoint of a known family: safetensors only, no remote code, nothing downloaded.

    Args:
        directory: Folder with config.json, *.safetensors and the tokenizer.
        device: `auto` (CUDA where there is one), or a torch device.
        dtype: `auto` (float32 on CPU, bfloat16 on CUDA), or a torch dtype's name. With AVX512-BF16
            bfloat16 takes 0.36 to 0.59 of float32's time at d=256 and answered 320 of 320 of the
            pilot's texts alike; but its logits move by 5 % with a row's batch mates, so the band
            in which rows do not exit is a thousand times wider: it is chosen, never assumed.
        quantization: One of `QUANTIZATIONS`, of the decoder layers' weights.

    Raises:
        ModelRefused: no such folder, another architecture, no safetensors, a broken file.
        QuantizationRefused: this model, device or machine cannot be quantised so.
    """
    config = _read_config(directory)
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise ModelRefused(
            f"{directory}: model type {model_type!r} is not one the engine runs layer by layer; "
            f"it takes {', '.join(sorted(FAMILIES))}"
        )
    if not list(directory.glob("*.safetensors")):
        raise ModelRefused(
            f"{directory}: no *.safetensors file; other weight formats can run code when they are "
            "opened and are refused: convert the checkpoint with save_pretrained()"
        )
    chosen_device = _device(device)
    chosen_dtype = _dtype(dtype, chosen_device)
    options = loading_options(quantization, chosen_device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=chosen_dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise ModelRefused(f"{directory}: cannot be loaded: {error}") from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelRefused(f"{directory}: the tokenizer has neither a pad nor an eos token")
        tokenizer.pad_token = tokenizer.eos_token
    model.train(False).requires_grad_(False)
    if not options:
        nn.Module.to(model, chosen_device)
    if quantization != "none" and not options:
        quantize_layers(take_apart(model).layers, quantization)
    revision = revision_of(directory)
    if quantization != "none":
        # Heads are bound to the model they were fitted to, and this is another one.
        revision = hashlib.sha256(f"{revision} {quantization}".encode()).hexdigest()
    return LoadedModel(model, tokenizer, revision, quantization)


def revision_of(directory: Path) -> str:
    """SHA-256 (hex) over the configuration, weights and tokenizer files of a checkpoint."""
    digest = hashlib.sha256()
    files = [
        directory / "config.json",
        directory / "tokenizer.json",
        *sorted(directory.glob("*.safetensors")),
    ]
    for path in files:
        if path.exists():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _read_config(directory: Path) -> dict[str, object]:
    path = directory / "config.json"
    if not path.is_file():
        raise ModelRefused(
            f"{directory}: no config.json there; model.id must name a folder written by "
            "save_pretrained()"
        )
    try:
        config = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ModelRefused(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelRefused(f"{path}: expected a JSON object")
    return config


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise ModelRefused(f"model.device {name!r} cannot be used: {first_line}") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, name, None)
    if dtype not in MAX_DIFFERENCE:
        known = ", ".join(str(d).removeprefix("torch.") for d in MAX_DIFFERENCE)
        raise ModelRefused(f"model.dtype {name!r} is not one of auto, {known}")
    assert isinstance(dtype, torch.dtype)
    return dtype
