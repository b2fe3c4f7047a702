"""Decoder layers with int8 or int4 weights; embedding, norms and heads stay as they are.

On the processor a row is quantised by itself: one scale per token, so that an answer does not
depend on who shares its batch. (One scale per batch, as in `quantize_dynamic`, makes it depend.)
On CUDA bitsandbytes does it while the checkpoint is loaded.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from rollout.values import RolloutError

QUANTIZATIONS = ("none", "int8", "int4")

ROUNDING = {"none": 0.0, "int8": 1e-2, "int4": 1e-2}
"""What quantisation adds to the difference of logits that a row may show when its batch changes.

Relative to the largest logit. Values that differ in their last bit may round to different integers
(int8), or to different bfloat16 numbers, in which the int4 kernel computes.
"""

GROUP = 32
"""Neighbouring int4 weights that share a scale and an offset."""


class QuantizationRefused(RolloutError):
    """A model, device or machine that cannot be quantised as asked."""


class Int8Linear(nn.Module):
    """A linear map with int8 weights (a scale per output) and activations (a scale per token).

    As vector-wise quantisation in Dettmers et al. 2022, LLM.int8(), section 2.1, without outliers
    apart. The product runs in int8 (oneDNN; fast with AVX512-VNNI), its scaling in float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.float()
        self.scale = (weight.abs().amax(1) / 127).clamp_(min=1e-12)
        levels = (weight / self.scale[:, None]).round_().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(levels, None)
        self.zero = torch.zeros(len(weight), dtype=torch.long)
        self.bias = None if bias is None else bias.float()

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        values = hidden.float()
        scale = values.abs().amax(-1, keepdim=True).clamp_(min=1e-12).div_(127)
        # The fast kernel takes unsigned activations, shifted by 128.
        levels = (values / scale).round_().add_(128).to(torch.uint8)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(levels, 1.0, 128, self.packed, self.scale, self.zero, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        product.mul_(scale)
        if self.bias is not None:
            product += self.bias
        return product.to(hidden.dtype)


class Int4Linear(nn.Module):
    """A linear map with int4 weights, a scale and an offset for each `GROUP`; bfloat16 inside."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        groups = weight.float().view(len(weight), -1, GROUP)  # [outputs, groups, GROUP]
        low, high = groups.amin(-1), groups.amax(-1)
        scale = ((high - low) / 15).clamp_(min=1e-6)
        levels = ((groups - low[..., None]) / scale[..., None]).round_().clamp_(0, 15)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            levels.flatten(1).to(torch.int32), 1
        )
        # The kernel reads a level as (level - 8) * scale + offset.
        pairs = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1)
        self.scales = pairs.contiguous().bfloat16()  # [groups, outputs, 2]
        self.bias = bias

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        rows = hidden.flatten(0, -2).bfloat16()
        kernel = torch.ops.aten._weight_int4pack_mm_for_cpu
        product: Tensor = kernel(rows, self.packed, GROUP, self.scales).to(hidden.dtype)
        product = product.view(*hidden.shape[:-1], -1)
        return product if self.bias is None else product + self.bias


def loading_options(quantization: str, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` needs to quantise on a CUDA device; nothing for the processor.

    Raises:
        QuantizationRefused: a device that is neither, or bitsandbytes is missing.
    """
    if quantization == "none" or device.type == "cpu":
        return {}
    if device.type != "cuda":
        raise QuantizationRefused(
            f"model.quantization {quantization} runs on cpu and cuda, not on {device.type}: "
            "set model.device, or model.quantization none"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise QuantizationRefused(
            f"model.quantization {quantization} on CUDA needs the package bitsandbytes: install "
            "early-exit-rollout[quantization], or set model.quantization none"
        )
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_8bit=quantization == "int8", load_in_4bit=quantization == "int4"
    )
    return {"quantization_config": config, "device_map": {"": device}}


@torch.no_grad()
def quantize_layers(layers: nn.ModuleList, quantization: str) -> None:
    """Replace the linear maps of decoder layers on the processor, in place.

    Raises:
        QuantizationRefused: this build of torch has no such kernel, or a shape does not fit it.
    """
    for layer in layers:
        for path, module in list(layer.named_modules()):
            if not isinstance(module, nn.Linear | Conv1D):
                continue
            # GPT-2 keeps its weights the other way round.
            weight = module.weight.T.contiguous() if isinstance(module, Conv1D) else module.weight
            layer.set_submodule(path, _quantized(path, weight, module.bias, quantization))


def _quantized(path: str, weight: Tensor, bias: Tensor | None, quantization: str) -> nn.Module:
    if quantization == "int4" and (weight.shape[1] % GROUP or weight.shape[0] % 16):
        raise QuantizationRefused(
            f"int4 needs inputs in groups of {GROUP} and outputs in groups of 16, and {path} has "
            f"{weight.shape[1]} and {weight.shape[0]}: use model.quantization int8"
        )
    made = {"int8": Int8Linear, "int4": Int4Linear}[quantization]
    try:
        module = made(weight, bias)
        module(weight.new_zeros(1, weight.shape[1]))
    except (AttributeError, RuntimeError) as error:
        first_line = str(error).splitlines()[0]
        raise QuantizationRefused(
            f"this build of torch cannot run {quantization} layers on this processor: {first_line}"
        ) from error
    return module
