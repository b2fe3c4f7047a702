"""The tiny random model, loaded once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rollout.engine.loading import LoadedModel, load_model
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask, compile_task
from tests import models
from tests.models import LABELS, TEMPLATE, random_texts


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Writes a random model of 6 layers, seeded, to a new folder."""
    return lambda seed: models.save_model(tmp_path_factory.mktemp("model"), seed)


@pytest.fixture(scope="session")
def model_folder(save_model: Callable[[int], Path]) -> Path:
    return save_model(0)


@pytest.fixture(scope="session")
def loaded(model_folder: Path) -> LoadedModel:
    return load_model(model_folder)


@pytest.fixture(scope="session")
def segments(loaded: LoadedModel) -> Segments:
    return Segments(loaded)


@pytest.fixture(scope="session")
def task(loaded: LoadedModel) -> ChoiceTask:
    return compile_task(loaded, LABELS, TEMPLATE)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return random_texts(240)
