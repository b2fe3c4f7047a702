"""The model that rollout.yaml names: loaded one way, and never served unchecked."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from rollout.control.sections import ModelSpec
from rollout.engine.exactness import check_exactness
from rollout.engine.loading import load_model
from rollout.engine.segments import Segments

log = logging.getLogger(__name__)


def load_checked(home: Path, model: ModelSpec) -> Segments:
    """The layer loop over the spec's model, compared with the model's own forward.

    Args:
        home: Folder of rollout.yaml; a relative `model.id` starts there.

    Raises:
        ModelRefused: it cannot be loaded, or the loop does not equal its own forward.
        QuantizationRefused: it cannot be quantised as the spec asks.
    """
    # A bar drawn with carriage returns has no place in a log or beside our own.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    loaded = load_model(
        home / model.id, device=model.device, dtype=model.dtype, quantization=model.quantization
    )
    segments = Segments(loaded)
    difference = check_exactness(segments)
    log.info(
        "model %s (%s) loaded on %s: %d layers, loop differs from its own forward by %.1e",
        model.id,
        loaded.revision[:12],
        loaded.device,
        loaded.depth,
        difference,
    )
    return segments
