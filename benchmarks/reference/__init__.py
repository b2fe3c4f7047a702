"""The reference model: the sets it answers, its tokenizer, how it is trained, where it lies."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER_VARIABLE = "ROLLOUT_REFERENCE"
COMMAND = "python -m benchmarks.train_reference"


def reference_folder() -> Path:
    """Where the reference model and its half-depth twin are kept; outside git."""
    default = Path.home() / ".cache" / "early-exit-rollout" / "reference"
    return Path(os.environ.get(FOLDER_VARIABLE) or default)


def reference_model_folder(depth: int = 12) -> Path:
    """The trained model's folder, as `load_model` takes it; it may not exist yet (see COMMAND)."""
    return reference_folder() / f"depth-{depth}"
