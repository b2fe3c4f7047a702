"""Quantised layers: other numbers, the same rules of exactness, and a revision of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rollout.control.sections import ModelSpec
from rollout.engine.exactness import check_exactness, relative_difference
from rollout.engine.loading import load_model
from rollout.engine.quantization import (
    Int4Linear,
    Int8Linear,
    QuantizationRefused,
    loading_options,
    quantize_layers,
)
from rollout.engine.segments import Segments
from rollout.engine.task import tie
from rollout.serving.model import load_checked
from tests.models import OF_ITS_OWN, save_model

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [5, 6, 17], [21, 22, 30, 31, 32], [40, 41]]
MAPS = [(Int8Linear, 0.02), (Int4Linear, 0.12)]


@pytest.mark.parametrize(("kind", "error"), MAPS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_quantised_map_is_close_to_its_original(
    kind: type[nn.Module], error: float, bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 96, bias=bias, dtype=dtype)
    hidden = torch.randn(3, 5, 64, dtype=dtype)
    made = kind(linear.weight, linear.bias)
    expected, ours = linear(hidden), made(hidden)
    assert ours.shape == expected.shape and ours.dtype == dtype
    assert 0 < float((ours - expected).norm() / expected.norm()) < error
    assert torch.equal(made(torch.zeros_like(hidden)), linear(torch.zeros_like(hidden)))


@pytest.mark.parametrize(("kind", "error"), MAPS)
@torch.inference_mode()
def test_a_row_is_quantised_by_itself(kind: type[nn.Module], error: float) -> None:
    torch.manual_seed(0)
    made = kind(torch.randn(96, 64), None)
    hidden = torch.randn(6, 64) * torch.tensor([1, 100, 1e-3, 7, 1, 1e4])[:, None]
    together = made(hidden)
    for row in range(6):
        assert torch.equal(made(hidden[[row]])[0], together[row])


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("family", sorted(OF_ITS_OWN))
def test_a_quantised_model_equals_its_own_forward(
    family: str, quantization: str, tmp_path: Path
) -> None:
    folder = save_model(tmp_path, 1, family, **OF_ITS_OWN[family])
    plain = Segments(load_model(folder))
    quantised = Segments(load_model(folder, quantization=quantization))
    maps = [m for m in quantised.loaded.layers.modules() if isinstance(m, Int8Linear | Int4Linear)]
    assert len(maps) >= 4 * quantised.loaded.depth
    assert check_exactness(quantised) <= 1e-2
    assert quantised.loaded.revision != plain.loaded.revision
    assert tie(quantised.loaded) > tie(plain.loaded)
    both = [s.finish(s.advance(s.start(PROMPTS), 6)) for s in (plain, quantised)]
    away = relative_difference(both[1], both[0])
    assert away > 1e-4
    if quantization == "int8":
        # The original's logits, though a random model of 6 layers blows every error up.
        assert torch.corrcoef(torch.stack([both[0].flatten(), both[1].flatten()]))[0, 1] > 0.98


def test_each_format_has_a_revision_of_its_own(model_folder: Path) -> None:
    formats = ("none", "int8", "int4")
    revisions = {load_model(model_folder, quantization=each).revision for each in formats}
    assert len(revisions) == 3
    assert load_model(model_folder, quantization="int8").revision in revisions


def test_the_spec_chooses_the_format(model_folder: Path) -> None:
    spec = ModelSpec(id=str(model_folder), quantization="int8")
    segments = load_checked(Path("/"), spec)
    assert segments.loaded.quantization == "int8"
    assert isinstance(segments.loaded.layers[0].mlp.up_proj, Int8Linear)


def test_a_bfloat16_model_can_be_quantised(model_folder: Path) -> None:
    segments = Segments(load_model(model_folder, dtype="bfloat16", quantization="int8"))
    assert check_exactness(segments) <= 6e-2


def test_a_shape_that_does_not_fit_is_refused_with_its_name(
    save_model: Callable[[int], Path],
) -> None:
    layer = nn.ModuleDict({"narrow": nn.Linear(24, 32)})
    with pytest.raises(QuantizationRefused, match=r"groups of 32.*narrow has\s+24 and 32.*int8"):
        quantize_layers(nn.ModuleList([layer]), "int4")


def test_other_devices_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading_options("none", torch.device("mps")) == {}
    assert loading_options("int8", torch.device("cpu")) == {}
    with pytest.raises(QuantizationRefused, match="runs on cpu and cuda, not on mps"):
        loading_options("int8", torch.device("mps"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(QuantizationRefused, match="needs the package bitsandbytes"):
        loading_options("int4", torch.device("cuda"))
