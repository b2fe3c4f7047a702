from __future__ import annotations

import pytest

from tests.homes import Engine, make_engine
from tests.models import save_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The tiny random model with fitted exit heads."""
    return make_engine(save_model(tmp_path_factory.mktemp("tiny"), seed=0))
