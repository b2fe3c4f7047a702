"""Every family that is taken runs layer by layer exactly as its own forward does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollout.engine.exactness import check_exactness
from rollout.engine.loading import load_model
from rollout.engine.segments import Segments
from tests.models import save_model

OF_ITS_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "qwen3": {"head_dim": 8},
}


@pytest.mark.parametrize("family", sorted(OF_ITS_OWN))
def test_the_loop_equals_the_familys_own_forward(family: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path, 1, family, **OF_ITS_OWN[family])
    segments = Segments(load_model(folder))
    assert check_exactness(segments) <= 1e-5
    prompts = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [5, 6, 7]]
    whole = segments.advance(segments.start(prompts), 6).last_hidden
    paused = segments.advance(segments.start(prompts), 2)
    last = segments.advance(segments.compact(paused, [1]), 6).last_hidden
    assert (last - whole[[1]]).abs().max() <= 1e-4
