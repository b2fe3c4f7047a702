"""A domain's engine follows the policy cache's readings and keeps nothing that was refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rollout.control.spec import load_spec
from rollout.engine.task import TaskError
from rollout.serving.domain_engine import DomainEngines
from rollout.serving.policy_cache import LiveDomain
from tests.homes import Engine, write_home
from tests.models import LABELS, TEMPLATE


@pytest.fixture
def live(tiny: Engine, tmp_path: Path) -> LiveDomain:
    spec = load_spec(write_home(tmp_path, tiny.folder) / "rollout.yaml").domains["billing"]
    policy = tiny.policy(tiny.heads.save(tmp_path / "heads"))
    return LiveDomain("billing", spec, LABELS, TEMPLATE, policy, 0.5, 0.1, False, None)


def test_a_sound_policy_is_served_at_its_weight(
    tiny: Engine, live: LiveDomain, tmp_path: Path
) -> None:
    engine = DomainEngines(tiny.segments, tmp_path / "heads").of(live)
    assert (engine.policy, engine.stage_weight, engine.full_depth_reason) == (
        live.policy,
        0.5,
        None,
    )
    assert engine.heads is not None and set(engine.heads.heads) == {2, 4}


def test_one_reading_of_the_policy_is_judged_once_and_the_next_one_anew(
    tiny: Engine, live: LiveDomain, tmp_path: Path
) -> None:
    engines = DomainEngines(tiny.segments, tmp_path / "heads")
    file = next((tmp_path / "heads").iterdir())
    content = file.read_bytes()
    file.unlink()
    refused = engines.of(live)
    assert refused.policy is None and refused.stage_weight == 0.0
    file.write_bytes(content)
    assert engines.of(live) is refused
    healed = engines.of(replace(live))
    assert healed.policy == live.policy


def test_a_heads_file_that_was_altered_is_refused(
    tiny: Engine, live: LiveDomain, tmp_path: Path
) -> None:
    file = next((tmp_path / "heads").iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    engine = DomainEngines(tiny.segments, tmp_path / "heads").of(live)
    assert engine.full_depth_reason is not None
    assert "do not match their content hash" in engine.full_depth_reason


def test_a_template_that_the_model_cannot_use_is_an_error_not_full_depth(
    tiny: Engine, live: LiveDomain, tmp_path: Path
) -> None:
    engines = DomainEngines(tiny.segments, tmp_path / "heads")
    with pytest.raises(TaskError, match="never uses"):
        engines.of(replace(live, template="intent :"))
