"""A study as two charts on one time axis: the share of traffic, and the agreement behind it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from rollout.reporting.charts import Mark, days_of, mark_changes, time_axis
from rollout.reporting.svg import ACCENT, BAD, GOOD, MUTED, draw_chart, empty_chart
from rollout.reporting.wording import percent
from rollout.simulation.baselines import lost
from rollout.simulation.past_study import PastStudy
from rollout.simulation.path import Path
from rollout.simulation.study import Study
from rollout.simulation.truth import Floats, Truth

ZONE = "UTC"
BAND = (0.05, 0.95)
_GAP = {"wide": 0.085, "narrow": 0.16}


def past_share_chart(study: PastStudy) -> Markup:
    """What the spec would have served early; dashed: what was."""
    past, moves = study.past, study.found.moves
    marks = [
        Mark(row.at, percent(row.after), row.after > (row.before or 0.0))
        for row in moves
        if row.after is not None and row.after != row.before
    ]

    def draw(axes: Axes, shape: str) -> None:
        for steps, colour, width, style in (
            (study.stored_steps, MUTED, 1.0, (0, (4, 2))),
            (study.steps, ACCENT, 1.6, "solid"),
        ):
            axes.step(
                [days_of(at) for at, _ in steps],
                [share for _, share in steps],
                where="post",
                color=colour,
                linewidth=width,
                linestyle=style,
            )
        axes.set_ylim(0, 1.28)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
        mark_changes(axes, _thinned(marks, past.end - past.start, shape), 1.12, gap=_GAP[shape])
        time_axis(axes, shape, ZONE)

    return draw_chart(f"{study.domain}: share of traffic", _moves_in_words(marks), draw)


def past_agreement_chart(study: PastStudy) -> Markup:
    """Agreement as measured then, window by window, with its interval, target and floor."""
    windows = [window for window in study.windows if window.agreement is not None]
    if not windows:
        return empty_chart(f"{study.domain}: agreement", "No comparisons in this time")
    target, floor = study.spec.agreement.target, study.spec.agreement.floor
    times = [days_of(window.start + (window.end - window.start) / 2) for window in windows]
    values = [window.agreement or 0.0 for window in windows]

    def draw(axes: Axes, shape: str) -> None:
        axes.fill_between(
            times,
            [window.lower or 0.0 for window in windows],
            [window.upper or 1.0 for window in windows],
            color=ACCENT,
            alpha=0.16,
            linewidth=0,
        )
        axes.plot(times, values, "o-", color=ACCENT, linewidth=1.6, markersize=2.5)
        _levels(axes, target, floor)
        axes.set_ylim(max(0.0, min(*values, floor) - 0.02), 1.008)
        time_axis(axes, shape, ZONE)

    description = f"From {percent(min(values))} to {percent(max(values))}."
    return draw_chart(f"{study.domain}: agreement", description, draw)


def share_chart(study: Study) -> Markup:
    """The median share with the band of nine in ten runs, the oracle's, and one run's moves."""
    shares = np.array([run.path.weight for run in study.runs])
    middle = np.median(shares, axis=0)
    low, high = np.quantile(shares, BAND, axis=0)
    marks = marks_of(study.truth, study.runs[0].path)
    length = study.truth.moments[-1] - study.truth.moments[0]

    def draw(axes: Axes, shape: str) -> None:
        times = _times(study.truth)
        axes.fill_between(times, low, high, step="post", color=ACCENT, alpha=0.16, linewidth=0)
        axes.step(
            times, study.best.weight, where="post", color=MUTED, linewidth=1, linestyle=(0, (4, 2))
        )
        axes.step(times, middle, where="post", color=ACCENT, linewidth=1.6)
        axes.set_ylim(0, 1.28)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
        mark_changes(axes, _thinned(marks, length, shape), 1.12, gap=_GAP[shape])
        time_axis(axes, shape, ZONE)

    words = f"One run: {_moves_in_words(marks)}"
    return draw_chart(f"{study.name}: share of traffic", words, draw)


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
            middle = len(times) * 2 // 5
            axes.annotate(
                label,
                (times[middle], values[middle]),
                xytext=(0, -2.5),
                textcoords="offset points",
                va="top",
                color=MUTED,
                fontsize=8.5,
            )
        _levels(axes, target, floor)
        axes.set_ylim(max(0.0, lowest - 0.02), 1.008)
        time_axis(axes, shape, ZONE)

    return draw_chart(f"{study.name}: true agreement", description, draw)


def marks_of(truth: Truth, path: Path) -> list[Mark]:
    """The moves of one run."""
    return [
        Mark(truth.moments[move.tick], percent(move.after), move.after > move.before)
        for move in path.moves
    ]


def _thinned(marks: Sequence[Mark], length: timedelta, shape: str) -> list[Mark]:
    """Of moves the same way that stand too close to be told apart, the last."""
    near = length * _GAP[shape]
    return [
        mark
        for mark, after in zip(marks, [*marks[1:], None], strict=False)
        if after is None or after.good != mark.good or after.at - mark.at > near
    ]


def _moves_in_words(marks: Sequence[Mark]) -> str:
    return "; ".join(f"{mark.at:%d %b %H:%M} to {mark.label}" for mark in marks) or "no move"


def _levels(axes: Axes, target: float, floor: float) -> None:
    # At opposite ends: on a long axis the two lines are close.
    for level, name, colour, side in ((target, "target", GOOD, 1), (floor, "floor", BAD, 0)):
        axes.axhline(level, color=colour, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{name} {percent(level)}",
            (side, level),
            xycoords=("axes fraction", "data"),
            xytext=(2 - 4 * side, -2.5),
            textcoords="offset points",
            ha="right" if side else "left",
            va="top",
            color=colour,
            fontsize=8.5,
        )


def _times(truth: Truth) -> Floats:
    starts: Sequence[datetime] = [moment - truth.width for moment in truth.moments]
    return np.array([days_of(start) for start in starts])
