"""Depth traces as arrays, as the threshold search takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rollout.values import DepthTrace


def trace_arrays(
    traces: Sequence[DepthTrace], never_early: frozenset[int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """(confidence, agrees, allowed), each [traces, exits].

    Args:
        traces: At least one; all with the same exit layers.
        never_early: Label indices that may not be answered early: not allowed.
    """
    confidence = np.array([[point.confidence for point in trace.exits] for trace in traces])
    answers = np.array([[point.answer for point in trace.exits] for trace in traces])
    full = np.array([trace.full_answer for trace in traces])
    return confidence, answers == full[:, None], ~np.isin(answers, list(never_early))
