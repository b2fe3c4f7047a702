"""Every family that is taken runs layer by layer exactly as its own forward does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rollout.engine.loading import LLAMA_FAMILY, load_model
from rollout.engine.segments import Segments, check_exactness
from tests.models import save_model

OF_ITS_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "qwen3": {"head_dim": 8},
}


@pytest.mark.parametrize("family", sorted(LLAMA_FAMILY))
def test_the_loop_equals_the_familys_own_forward(family: str, tmp_path: Path) -> None:
    save_model(tmp_path, 0)
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        family,
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        **OF_ITS_OWN[family],
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    segments = Segments(load_model(tmp_path))
    assert check_exactness(segments) <= 1e-5
    prompts = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [5, 6, 7]]
    whole = segments.advance(segments.start(prompts), 5).last_hidden
    paused = segments.advance(segments.start(prompts), 2)
    last = segments.advance(segments.compact(paused, [1]), 5).last_hidden
    assert (last - whole[[1]]).abs().max() <= 1e-4
