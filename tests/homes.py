"""A rollout home around the tiny random model: configuration, exit heads, database, live policy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rollout.control.spec import load_spec
from rollout.control.state import DomainState
from rollout.engine.calibration import calibrate
from rollout.engine.heads import ExitHeads
from rollout.engine.loading import load_model
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask, compile_task
from rollout.store.catalog import save_policy
from rollout.store.domains import apply
from rollout.store.ledger import replace_state
from rollout.store.session import Store
from rollout.values import ExitPolicy
from tests.models import LABELS, TEMPLATE, random_texts
from tests.store.examples import NOW

EXIT_LAYERS = (2, 4)


@dataclass(frozen=True)
class Engine:
    """The tiny model, its task and heads for layers 2 and 4.

    Attributes:
        threshold: Half of the requests are this confident at one of the exits.
    """

    folder: Path
    segments: Segments
    task: ChoiceTask
    heads: ExitHeads
    threshold: float

    def policy(self, heads: str, **changes: Any) -> ExitPolicy:
        """A policy by which about half of the traffic exits."""
        loaded = self.segments.loaded
        policy = ExitPolicy(
            domain="billing",
            version=1,
            exit_layers=EXIT_LAYERS,
            thresholds=(self.threshold, self.threshold),
            heads=heads,
            criterion=self.heads.criterion,
            model_revision=loaded.revision,
            depth=loaded.depth,
            probe_cost=0.02,
            layer_ms=1.5,
        )
        return replace(policy, **changes)


def make_engine(folder: Path) -> Engine:
    segments = Segments(load_model(folder))
    task = compile_task(segments.loaded, LABELS, TEMPLATE)
    fitted = calibrate(segments, task, random_texts(240), exit_layers=EXIT_LAYERS)
    confidences = sorted(
        max(point.confidence for point in trace.exits) for trace in fitted.held_out
    )
    return Engine(folder, segments, task, fitted.heads, confidences[len(confidences) // 2])


def write_home(folder: Path, model: Path, **domain: Any) -> Path:
    """Write rollout.yaml for one domain, `billing`, and the files it names."""
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (folder / "prompt.j2").write_text(TEMPLATE + "\n")
    spec: dict[str, Any] = {
        "task": {"labels": "labels.txt", "template": "prompt.j2"},
        "stages": [0, 0.5, 1],
        "shadow": {"rate": 0.5},
    }
    document = {
        "model": {"id": str(model), "device": "cpu", "dtype": "float32"},
        "cost": {"currency": "JPY", "accelerator_hour": 450},
        "domains": {"billing": spec | domain},
    }
    # JSON is YAML.
    (folder / "rollout.yaml").write_text(json.dumps(document))
    return folder


def apply_home(
    store: Store, home: Path, policies: Sequence[ExitPolicy] = (), stage: int = 1
) -> None:
    """Apply the home's rollout.yaml; the last policy goes live at a stage."""
    spec = load_spec(home / "rollout.yaml")
    with store.write() as session:
        apply(session, spec, home, actor="tester", now=NOW)
        for policy in policies:
            version = save_policy(session, policy, LABELS, {}, "tester", NOW)
            state = DomainState.start(spec.domains["billing"], NOW, policy_version=version)
            replace_state(session, "billing", replace(state, stage=stage), NOW)
