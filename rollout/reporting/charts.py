"""Charts as inline SVG whose colours are CSS variables: one picture for light, dark and print.

Every chart comes in two shapes, since text that is readable on a wide page is dust on a phone; the
style sheet shows one of them. Nothing is set as an inline style, so a page may forbid those.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rollout.reporting.series import Series
from rollout.reporting.wording import NARROW_SPACE, percent

INK, MUTED, RULE = "#0a0b01", "#0a0b02", "#0a0b03"
ACCENT, GOOD, BAD = "#0a0b04", "#0a0b05", "#0a0b06"
COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    ACCENT: "var(--accent)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
}
SHAPES = {"wide": (7.4, 2.5), "narrow": (3.7, 2.5)}
"""Inches, at 72 points each: a column of a wide page, and a phone."""

PERCENT = PercentFormatter(1.0, decimals=0, symbol=f"{NARROW_SPACE}%")

# matplotlib keeps its settings and font cache in one place for the whole process.
_DRAWING = threading.Lock()


@dataclass(frozen=True)
class Mark:
    """A change of stage, marked on a chart. `good` for a promotion, not for a step back."""

    at: datetime
    label: str
    good: bool


def traffic_chart(series: Series, marks: Sequence[Mark], title: str) -> Markup:
    """Share of traffic served by the early arm, with promotions and steps back marked."""
    description = (
        "; ".join(f"{mark.at:%d %b %H:%M} {mark.label}" for mark in marks) or "No change of stage."
    )

    def draw(axes: Axes, shape: str) -> None:
        times, shares = _steps(series, [bucket.early_share for bucket in series.buckets])
        axes.fill_between(times, shares, step="post", color=ACCENT, alpha=0.16, linewidth=0)
        axes.step(times, shares, where="post", color=ACCENT, linewidth=1.6)
        axes.set_ylim(0, 1.28)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
        _mark(axes, marks, 1.12, labelled=shape == "wide" or len(marks) <= 4)
        _time_axis(axes, shape)

    return _chart(title, description, draw)


def agreement_chart(
    series: Series, target: float, floor: float, marks: Sequence[Mark], title: str
) -> Markup:
    """Policy agreement with its band, against the target and the floor."""
    points = [(bucket.at, bucket.policy) for bucket in series.buckets if bucket.policy]
    if not points:
        return empty_chart(title, "No comparisons yet")
    times = date2num([at + timedelta(seconds=series.bucket_s) for at, _ in points])
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
        for level, name, colour in ((target, "target", GOOD), (floor, "floor", BAD)):
            axes.axhline(level, color=colour, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"{name} {percent(level)}",
                (1, level),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 2.5 if name == "target" else -2.5),
                textcoords="offset points",
                ha="right",
                va="bottom" if name == "target" else "top",
                color=colour,
                fontsize=8.5,
            )
        axes.set_ylim(max(0.0, lowest - 0.02), 1.008)
        for mark in marks:
            axes.axvline(date2num(mark.at), color=RULE, linewidth=0.8, zorder=0)
        _time_axis(axes, shape)

    return _chart(title, description, draw)


def saving_chart(series: Series, title: str) -> Markup:
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
        _time_axis(axes, shape)

    return _chart(title, description, draw)


def depth_chart(counts: Sequence[tuple[int | None, int]], depth: int, title: str) -> Markup:
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
        axes.set_xlabel(f"answered after layer, of {depth}", color=MUTED, fontsize=8.5)

    return _chart(title, description, draw)


def empty_chart(title: str, why: str) -> Markup:
    """The place of a chart that has nothing to show, in words."""
    return Markup('<p class="nothing" aria-label="{}">{}.</p>').format(title, why)


def _steps(series: Series, values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Step coordinates; a stretch without requests falls to a gap, not to a zero."""
    times: list[float] = []
    steps: list[float] = []
    length = timedelta(seconds=series.bucket_s)
    for index, (bucket, value) in enumerate(zip(series.buckets, values, strict=True)):
        times.append(float(date2num(bucket.at)))
        steps.append(value)
        following = series.buckets[index + 1 : index + 2]
        if not following or following[0].at > bucket.at + length:
            times += [float(date2num(bucket.at + length))] * 2
            steps += [value, float("nan")]
    return times, steps


def _mark(axes: Axes, marks: Sequence[Mark], height: float, labelled: bool) -> None:
    for mark in marks:
        colour = GOOD if mark.good else BAD
        place = float(date2num(mark.at))
        axes.axvline(place, color=colour, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.plot([place], [height], marker="^" if mark.good else "v", color=colour, markersize=5)
        if labelled:
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


def _time_axis(axes: Axes, shape: str) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=9 if shape == "wide" else 5)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    axes.yaxis.set_major_formatter(PERCENT)
    axes.margins(x=0.01)


def _chart(title: str, description: str, draw: Callable[[Axes, str], None]) -> Markup:
    """Both shapes of one chart, in a figure with its title and description."""
    shapes = [_svg(shape, size, title, description, draw) for shape, size in SHAPES.items()]
    return Markup("".join(shapes))


def _svg(
    shape: str,
    size: tuple[float, float],
    title: str,
    description: str,
    draw: Callable[[Axes, str], None],
) -> str:
    salt = f"{shape} {title} {description}"
    settings = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9.0}
    with _DRAWING, matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(RULE)
        axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        draw(axes, shape)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _for_the_page(buffer.getvalue(), shape, title, description)


def _for_the_page(svg: str, shape: str, title: str, description: str) -> str:
    """Matplotlib's file as a part of a page: named, styled by attributes, coloured by variables."""
    view_box = re.search(r'viewBox="([^"]+)"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r'(<g) id="[^"]*"', r"\1", body)
    body = re.sub(r'style="([^"]*)"', _as_attributes, body)
    for colour, variable in COLOURS.items():
        body = body.replace(colour, variable)
    body = re.sub(r"\n\s*", " ", body)
    return (
        f'<svg class="chart {shape}" role="img" viewBox="{view_box[1] if view_box else ""}" '
        f'stroke-linejoin="round" stroke-linecap="butt">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{body}</svg>"
    )


def _as_attributes(style: re.Match[str]) -> str:
    attributes = []
    for declaration in style[1].split(";"):
        name, _, value = declaration.partition(":")
        name, value = name.strip(), value.strip()
        if name == "font":
            size = re.search(r"[\d.]+px", value)
            name, value = "font-size", size[0] if size else "9px"
        if name and name != "font-family":
            attributes.append(f'{name}="{value}"')
    return " ".join(attributes)
