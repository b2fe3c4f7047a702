"""The charts of a period: traffic, agreement, net saving, exit depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rollout.reporting.series import Series
from rollout.reporting.svg import ACCENT, BAD, GOOD, INK, MUTED, RULE, draw_chart, empty_chart
from rollout.reporting.wording import NARROW_SPACE, moment, percent

PERCENT = PercentFormatter(1.0, decimals=0, symbol=f"{NARROW_SPACE}%")

EDGE = 0.06
"""A tick label this near the right end of its axis, as a share of it, ends at its tick."""
TICK_STEPS = [
    minutes / 1440
    for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10080, 20160)
]
"""Distances of ticks that read well, in days."""


@dataclass(frozen=True)
class Mark:
    """A change of stage, marked on a chart. `good` for a promotion, not for a step back."""

    at: datetime
    label: str
    good: bool


def traffic_chart(series: Series, marks: Sequence[Mark], title: str, zone: str) -> Markup:
    """Share of traffic served by the early arm, with promotions and steps back marked."""
    if not series.buckets:
        return empty_chart(title, "No requests yet")
    description = (
        "; ".join(f"{moment(mark.at, zone)} {mark.label}" for mark in marks)
        or "No change of stage."
    )

    def draw(axes: Axes, shape: str) -> None:
        times, shares = _steps(series, [bucket.early_share for bucket in series.buckets])
        axes.fill_between(times, shares, step="post", color=ACCENT, alpha=0.16, linewidth=0)
        axes.step(times, shares, where="post", color=ACCENT, linewidth=1.6)
        axes.set_ylim(0, 1.28)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
        mark_changes(axes, marks, 1.12, gap=0.065 if shape == "wide" else 0.13)
        time_axis(axes, shape, zone)

    return draw_chart(title, description, draw)


def agreement_chart(
    series: Series, target: float, floor: float, marks: Sequence[Mark], title: str, zone: str
) -> Markup:
    """Policy agreement with its band, against the target and the floor."""
    points = [(bucket.at, bucket.policy) for bucket in series.buckets if bucket.policy]
    if not points:
        return empty_chart(title, "No comparisons yet")
    times = [days_of(at + timedelta(seconds=series.bucket_s)) for at, _ in points]
    values = [policy.value for _, policy in points]
    lowest = min(min(policy.lower for _, policy in points[len(points) // 8 :]), floor)
    description = (
        f"Latest {percent(values[-1])}, between {percent(points[-1][1].lower)} and "
        f"{percent(points[-1][1].upper)}; lowest point {percent(min(values))}. "
        f"Target {percent(target)}, floor {percent(floor)}."
    )

    def draw(axes: Axes, shape: str) -> None:
        axes.fill_between(
            times,
            [policy.lower for _, policy in points],
            [policy.upper for _, policy in points],
            color=ACCENT,
            alpha=0.16,
            linewidth=0,
        )
        axes.plot(times, values, color=ACCENT, linewidth=1.6)
        if len(points) == 1:
            axes.plot(times, values, "o", color=ACCENT, markersize=4)
        # At opposite ends: the curve starts above the floor and, when it falls, ends below both.
        for level, name, colour, side in ((target, "target", GOOD, 1), (floor, "floor", BAD, 0)):
            axes.axhline(level, color=colour, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"{name} {percent(level)}",
                (side, level),
                xycoords=("axes fraction", "data"),
                xytext=(2 - 4 * side, 2.5 - 5 * (1 - side)),
                textcoords="offset points",
                ha="right" if side else "left",
                va="bottom" if name == "target" else "top",
                color=colour,
                fontsize=8.5,
            )
        axes.set_ylim(max(0.0, lowest - 0.02), 1.008)
        for mark in marks:
            axes.axvline(days_of(mark.at), color=RULE, linewidth=0.8, zorder=0)
        time_axis(axes, shape, zone)

    return draw_chart(title, description, draw)


def saving_chart(series: Series, title: str, zone: str) -> Markup:
    """Net share of layers saved, bucket by bucket; below zero where checking cost more."""
    shares = [bucket.layers.net_share or 0.0 for bucket in series.buckets]
    if not shares:
        return empty_chart(title, "No requests yet")
    description = f"Highest {percent(max(shares))}, lowest {percent(min(shares))}."

    def draw(axes: Axes, shape: str) -> None:
        times, steps = _steps(series, shares)
        above = [max(share, 0.0) for share in steps]
        below = [min(share, 0.0) for share in steps]
        axes.fill_between(times, above, step="post", color=GOOD, alpha=0.3, linewidth=0)
        axes.fill_between(times, below, step="post", color=BAD, alpha=0.3, linewidth=0)
        axes.step(times, steps, where="post", color=INK, linewidth=1)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_ylim(min(-0.02, 1.1 * min(shares)), max(0.05, 1.1 * max(shares)))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        time_axis(axes, shape, zone)

    return draw_chart(title, description, draw)


def depth_chart(counts: Sequence[tuple[int | None, int]], title: str) -> Markup:
    """Where early-arm requests were answered: a bar per exit layer, the last for full depth."""
    total = sum(count for _, count in counts)
    if not total:
        return empty_chart(title, "No early-arm requests yet")
    names = ["full" if layer is None else str(layer) for layer, _ in counts]
    shares = [count / total for _, count in counts]
    description = "; ".join(
        f"{'full depth' if layer is None else f'layer {layer}'} {percent(count / total)}"
        for layer, count in counts
    )

    def draw(axes: Axes, shape: str) -> None:
        colours = [MUTED if layer is None else ACCENT for layer, _ in counts]
        bars = axes.bar(names, shares, color=colours, width=0.62, alpha=0.85)
        axes.bar_label(
            bars, [percent(share, 0) for share in shares], color=INK, fontsize=8.5, padding=2
        )
        axes.set_ylim(0, max(shares) * 1.18)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(PERCENT)

    return draw_chart(title, description, draw)


def _steps(series: Series, values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Step coordinates; a stretch without requests falls to a gap, not to a zero."""
    times: list[float] = []
    steps: list[float] = []
    length = timedelta(seconds=series.bucket_s)
    for index, (bucket, value) in enumerate(zip(series.buckets, values, strict=True)):
        times.append(days_of(bucket.at))
        steps.append(value)
        following = series.buckets[index + 1 : index + 2]
        if not following or following[0].at > bucket.at + length:
            times += [days_of(bucket.at + length)] * 2
            steps += [value, float("nan")]
    return times, steps


def days_of(at: datetime) -> float:
    """Matplotlib's time: days since 1970."""
    return at.timestamp() / 86400


def mark_changes(axes: Axes, marks: Sequence[Mark], height: float, gap: float) -> None:
    """Mark changes of stage; a label closer to its neighbour than `gap` of the axis is left out."""
    start, end = axes.get_xlim()
    labelled_until = start - end
    for mark in marks:
        colour = GOOD if mark.good else BAD
        place = days_of(mark.at)
        axes.axvline(place, color=colour, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.plot([place], [height], marker="^" if mark.good else "v", color=colour, markersize=5)
        if place - labelled_until < gap * (end - start):
            continue
        labelled_until = place
        axes.annotate(
            mark.label,
            (place, height),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            color=colour,
            fontsize=8,
            annotation_clip=False,
        )


def time_axis(axes: Axes, shape: str, zone: str) -> None:
    """Round local times, few enough to be read: days by date, times by hour and minute."""
    axes.margins(x=0.01)
    start, end = axes.get_xlim()
    most = 8 if shape == "wide" else 5
    step = next((step for step in TICK_STEPS if (end - start) / step <= most), end - start)
    local = ZoneInfo(zone)
    middle = datetime.fromtimestamp((start + end) / 2 * 86400, local)
    ahead = (middle.utcoffset() or timedelta()).total_seconds() / 86400
    first = math.ceil((start + ahead) / step)
    places = [tick * step - ahead for tick in range(first, math.floor((end + ahead) / step) + 1)]
    ticks = [datetime.fromtimestamp(round(place * 86400), local) for place in places]
    axes.set_xticks(
        places,
        [
            f"{at:%H:%M}" if step < 1 and (at.hour, at.minute) != (0, 0) else f"{at.day} {at:%b}"
            for at in ticks
        ],
    )
    for place, label in zip(places, axes.get_xticklabels(), strict=True):
        if end - place < EDGE * (end - start):
            # Centred, it would be cut off by the chart's edge.
            label.set_horizontalalignment("right")
    axes.yaxis.set_major_formatter(PERCENT)
