"""The one adapter: where each model family keeps its parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Family:
    """Names in a family's own code.

    Attributes:
        decoder: Path, from the causal language model, of the module that loops over the layers.
        layers: Its list of decoder layers.
        norm: What it applies after the last of them.
    """

    decoder: str = "model"
    layers: str = "layers"
    norm: str = "norm"


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma2": Family(),
    "gemma3_text": Family(),
    "gpt_neox": Family("gpt_neox", norm="final_layer_norm"),
    "gpt2": Family("transformer", "h", "ln_f"),
    "opt": Family("model.decoder", norm="final_layer_norm"),
    "phi": Family(norm="final_layernorm"),
}
"""By the configuration's `model_type`."""


@dataclass(frozen=True)
class Parts:
    """A model taken apart.

    Attributes:
        family: Names of the parts in `decoder`.
        decoder: Embeds tokens, prepares masks and rotary angles, and loops over `layers`.
        norm: All that stands between the last layer and the unembedding: the final norm (the
            identity where a family has none) and OPT's projection to the embedding's width.
        unembedding: From normed hidden states to vocabulary logits.
        soft_cap: Logits are bent to cap * tanh(logit / cap) (Gemma 2, section 2); None: they
            are not.
    """

    family: Family
    decoder: nn.Module
    layers: nn.ModuleList
    norm: nn.Module
    unembedding: nn.Linear
    soft_cap: float | None

    def capped(self, logits: Tensor) -> Tensor:
        """Logits as the model itself bends them; any shape."""
        if self.soft_cap is None:
            return logits
        return torch.tanh(logits / self.soft_cap) * self.soft_cap


def take_apart(model: PreTrainedModel) -> Parts:
    """Find the parts of a model whose `model_type` is in `FAMILIES`."""
    family = FAMILIES[model.config.model_type]
    decoder = model.get_submodule(family.decoder)
    layers = getattr(decoder, family.layers)
    norm = getattr(decoder, family.norm) or nn.Identity()
    project_out = getattr(decoder, "project_out", None)
    unembedding = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(layers, nn.ModuleList) and isinstance(unembedding, nn.Linear)
    return Parts(
        family,
        decoder,
        layers,
        norm if project_out is None else nn.Sequential(norm, project_out),
        unembedding,
        getattr(model.config, "final_logit_softcapping", None),
    )
