"""A model serves early only where the layer loop equals its own forward: measured at load."""

from __future__ import annotations

import torch
from torch import Tensor

from rollout.engine.loading import MAX_DIFFERENCE, LoadedModel, ModelRefused
from rollout.engine.quantization import ROUNDING
from rollout.engine.segments import Segments

LENGTHS = (12, 7, 3)
"""Tokens of the random prompts that are compared: short ones are padded on the left."""


@torch.inference_mode()
def check_exactness(segments: Segments, *, seed: int = 0) -> float:
    """Compare the loop with `model()` on a left-padded random batch.

    Compared are a batch run to the last layer, and rows that go on alone from the middle layer.

    Returns:
        The largest difference of a last-token logit, relative to the largest logit.

    Raises:
        ModelRefused: a layer gives numbers that are not finite, or a difference exceeds
            `MAX_DIFFERENCE` for the model's dtype. Rows of a quantised model that changed batch
            may differ by its `ROUNDING` more.
    """
    loaded = segments.loaded
    generator = torch.Generator().manual_seed(seed)
    lengths = [min(length, loaded.context_tokens) for length in LENGTHS]
    prompts = [
        torch.randint(loaded.vocabulary, (length,), generator=generator).tolist()
        for length in lengths
    ]
    middle = segments.advance(segments.start(prompts), loaded.depth // 2)
    whole = segments.finish(segments.advance(middle, loaded.depth))
    if not whole.isfinite().all():
        raise ModelRefused(_not_finite(segments, prompts))
    theirs = model_logits(loaded, prompts)
    first, others = segments.split(middle, [0])
    alone = torch.cat([segments.finish(segments.advance(s, loaded.depth)) for s in (first, others)])
    allowed = MAX_DIFFERENCE[loaded.model.dtype]
    difference = relative_difference(whole, theirs)
    if not difference <= allowed:
        raise ModelRefused(
            f"the layer loop differs from the model's own forward by {difference:.2e} of the "
            f"largest logit (at most {allowed:.0e} is allowed): this model cannot be served early"
        )
    moved = relative_difference(alone, theirs)
    allowed += ROUNDING[loaded.quantization]
    if not moved <= allowed:
        raise ModelRefused(
            f"rows that leave their batch at layer {middle.layer} end {moved:.2e} of the largest "
            f"logit from the model's own forward (at most {allowed:.0e} is allowed): this model's "
            "answers depend on who shares a batch, so it cannot be served early"
        )
    return max(difference, moved)


def model_logits(loaded: LoadedModel, prompts: list[list[int]]) -> Tensor:
    """The last token's logits by the model's own forward, one padded batch, [rows, vocabulary]."""
    segments = Segments(loaded)
    lengths = [len(prompt) for prompt in prompts]
    mask, positions = segments.mask(lengths)
    logits: Tensor = loaded.model(
        input_ids=segments.padded(prompts, lengths),
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=1,
    ).logits[:, -1]
    return logits


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value (or 1, if that is larger)."""
    ours, theirs = ours.float(), theirs.float()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))


def _not_finite(segments: Segments, prompts: list[list[int]]) -> str:
    """Which layer is the first to give NaN or an infinity."""
    state = segments.start(prompts)
    for layer in range(segments.loaded.depth + 1):
        state = segments.advance(state, layer)
        if not state.last_hidden.isfinite().all():
            where = f"after layer {layer}" if layer else "in the embedding"
            return f"the model's hidden states are not finite {where}: its weights are damaged"
    return "the model's logits are not finite: its final norm or its head is damaged"
