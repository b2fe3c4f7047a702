"""The threshold of a calibrated policy: certified where the texts allow it, else only proposed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rollout.engine.calibration import ALPHA, Calibration
from rollout.engine.placement import Expected, expected_saving, working_limit
from rollout.engine.reliability import Reliability, reliability_of
from rollout.stats.thresholds import ThresholdChoice, choose_threshold
from rollout.stats.traces import trace_arrays

CANDIDATES = 100


def certify(
    fitted: Calibration, risk_limit: float, never_early: frozenset[int]
) -> ThresholdChoice | None:
    """The certified threshold that saves most, by the held-out traces alone.

    Candidates come from the fitting rows. None where nothing is certified to save anything.
    """
    if not fitted.held_out:
        return None
    traces = (*fitted.proposing, *fitted.held_out)
    choice = choose_threshold(
        *trace_arrays(traces, never_early),
        fitted.heads.layers,
        fitted.held_out[0].depth,
        fitted.costs.probe_cost,
        risk_limit,
        ALPHA,
        candidates=CANDIDATES,
        choose_on=np.arange(len(traces)) < len(fitted.proposing),
    )
    return choice if choice is not None and choice.net_saving > 0 else None


def propose_threshold(
    fitted: Calibration, risk_limit: float, never_early: frozenset[int]
) -> Expected | None:
    """The threshold expected to save most at half of the tolerated risk; live traces must judge it.

    None where none is expected to save anything.
    """
    traces = (*fitted.proposing, *fitted.held_out)
    expected = expected_saving(
        *trace_arrays(traces, never_early),
        fitted.heads.layers,
        traces[0].depth,
        fitted.costs.probe_cost,
        working_limit(risk_limit, 0, ALPHA),
    )
    return expected if expected.net_saving > 0 else None


@dataclass(frozen=True)
class CalibrationReport:
    """What was fitted, and how far its confidence can be trusted.

    Attributes:
        judged_on: `held-out` texts, or, where none were set aside, the `left-out` folds of the
            fitting texts.
        rows: How many of them.
        reliability: All exits together, then each one.
        no_label_share: Requests whose most probable token, of the whole vocabulary, is no label.
    """

    head: str
    criterion: str
    exit_layers: tuple[int, ...]
    probe_cost: float
    judged_on: str
    rows: int
    reliability: tuple[Reliability, ...]
    no_label_share: float

    @classmethod
    def of(cls, fitted: Calibration) -> CalibrationReport:
        traces = fitted.held_out or fitted.proposing
        return cls(
            fitted.heads.kind,
            fitted.heads.criterion,
            fitted.heads.layers,
            fitted.costs.probe_cost,
            "held-out" if fitted.held_out else "left-out",
            len(traces),
            reliability_of(traces),
            fitted.no_label_share,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
