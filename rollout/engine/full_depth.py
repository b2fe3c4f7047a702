"""Full depth by transformers alone: the independent check of the layer loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rollout.engine.task import ChoiceTask


@torch.inference_mode()
def full_depth_answer(task: ChoiceTask, prompt: Sequence[list[int]]) -> int:
    """The label index that `model()` itself gives to one request, from scratch.

    Args:
        prompt: `task.encode(text)`. Branches run one by one, so that nothing is padded.
    """
    base = task.loaded.base
    normed = [
        base(
            input_ids=torch.tensor([branch], device=task.loaded.device), use_cache=False
        ).last_hidden_state[:, -1]
        for branch in prompt
    ]
    return int(task.scores(torch.cat(normed)).argmax(-1).item())
