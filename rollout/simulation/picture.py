"""A study as two charts on one time axis: the share of traffic, and the truth behind it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from rollout.reporting.charts import Mark, days_of, mark_changes, time_axis
from rollout.reporting.svg import ACCENT, BAD, GOOD, MUTED, draw_chart
from rollout.reporting.wording import percent
from rollout.simulation.baselines import lost
from rollout.simulation.path import Path
from rollout.simulation.study import Study
from rollout.simulation.truth import Floats, Truth

ZONE = "UTC"
BAND = (0.05, 0.95)
_GAP = {"wide": 0.085, "narrow": 0.16}


def share_chart(study: Study) -> Markup:
    """The median share with the band of nine in ten runs, the oracle's, and one run's moves."""
    shares = np.array([run.path.weight for run in study.runs])
    middle = np.median(shares, axis=0)
    low, high = np.quantile(shares, BAND, axis=0)
    marks = marks_of(study.truth, study.runs[0].path)
    description = "One run: " + (
        "; ".join(f"{mark.at:%d %b %H:%M} to {mark.label}" for mark in marks) or "no move"
    )

    def draw(axes: Axes, shape: str) -> None:
        times = _times(study.truth)
        axes.fill_between(times, low, high, step="post", color=ACCENT, alpha=0.16, linewidth=0)
        axes.step(
            times, study.best.weight, where="post", color=MUTED, linewidth=1, linestyle=(0, (4, 2))
        )
        axes.step(times, middle, where="post", color=ACCENT, linewidth=1.6)
        axes.set_ylim(0, 1.28)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
        mark_changes(axes, marks, 1.12, gap=_GAP[shape])
        time_axis(axes, shape, ZONE)

    return draw_chart(f"{study.name}: share of traffic", description, draw)


def truth_chart(study: Study) -> Markup:
    """True agreement, which the controller does not see, with target and floor; losses shaded."""
    spec, truth = study.spec, study.truth
    target, floor = spec.agreement.target, spec.agreement.floor
    agreement = truth.agreement
    guards = {label: 1.0 - truth.exit_error(label) for label in spec.guarded}
    lowest = min([agreement.min(), floor, *(values.min() for values in guards.values())])
    description = (
        f"True agreement from {percent(agreement[0])} to {percent(agreement[-1])}, lowest "
        f"{percent(agreement.min())}. Target {percent(target)}, floor {percent(floor)}."
    )

    def draw(axes: Axes, shape: str) -> None:
        times = _times(truth)
        axes.fill_between(
            times,
            0,
            1.01,
            where=lost(spec, truth).tolist(),
            step="post",
            color=BAD,
            alpha=0.1,
            linewidth=0,
        )
        axes.step(times, agreement, where="post", color=ACCENT, linewidth=1.6)
        for label, values in guards.items():
            axes.step(times, values, where="post", color=MUTED, linewidth=1)
            axes.annotate(
                label,
                (times[0], values[0]),
                xytext=(2, -9),
                textcoords="offset points",
                color=MUTED,
                fontsize=8,
            )
        for level, name, colour in ((target, "target", GOOD), (floor, "floor", BAD)):
            axes.axhline(level, color=colour, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"{name} {percent(level)}",
                (0, level),
                xycoords=("axes fraction", "data"),
                xytext=(2, -2.5),
                textcoords="offset points",
                va="top",
                color=colour,
                fontsize=8.5,
            )
        axes.set_ylim(max(0.0, lowest - 0.02), 1.008)
        time_axis(axes, shape, ZONE)

    return draw_chart(f"{study.name}: true agreement", description, draw)


def marks_of(truth: Truth, path: Path) -> list[Mark]:
    """The moves of one run."""
    return [
        Mark(truth.moments[move.tick], percent(move.after), move.after > move.before)
        for move in path.moves
    ]


def _times(truth: Truth) -> Floats:
    starts: Sequence[datetime] = [moment - truth.width for moment in truth.moments]
    return np.array([days_of(start) for start in starts])
