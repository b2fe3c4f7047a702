"""The reference model: the sets it answers, its tokenizer, how it is trained, where it lies."""

from __future__ import annotations

import os
from pathlib import Path

from rollout.engine.loading import LoadedModel, load_model
from rollout.values import RolloutError

FOLDER_VARIABLE = "ROLLOUT_REFERENCE"
COMMAND = "python -m benchmarks.train_reference"


def reference_folder() -> Path:
    """Where the reference model and its half-depth twin are kept; outside git."""
    default = Path.home() / ".cache" / "early-exit-rollout" / "reference"
    return Path(os.environ.get(FOLDER_VARIABLE) or default)


def reference_model_folder(depth: int = 12) -> Path:
    """The trained model's folder, as `load_model` takes it; it may not exist yet (see COMMAND)."""
    return reference_folder() / f"depth-{depth}"


def load_reference(depth: int = 12) -> LoadedModel:
    """The reference model, or its twin of another depth.

    Raises:
        RolloutError: it is not trained yet; says which command trains it.
    """
    folder = reference_model_folder(depth)
    # Written last, when everything else is in place.
    if not (folder / "training.json").exists():
        option = "" if depth == 12 else f" --depth {depth}"
        raise RolloutError(
            f"no reference model of {depth} layers in {folder}: train it with `{COMMAND}{option}` "
            f"(about an hour on one free core), or let {FOLDER_VARIABLE} name the folder it is in"
        )
    return load_model(folder)
