"""The charts of an analysis: by layer, depth needed, layers left out, forecast saving."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rollout.reporting.charts import PERCENT
from rollout.reporting.svg import (
    ACCENT,
    BOTTOM,
    GOOD,
    INK,
    MUTED,
    RIGHT,
    RULE,
    TOP,
    draw_chart,
)
from rollout.reporting.wording import percent
from rollout.stats.analysis import DomainAnalysis, ShotAnalysis
from rollout.stats.forecast import Estimate
from rollout.stats.layers import LayerCurve

ROW_INCHES = 0.3
"""Height of a row in the charts that compare domains or prompts."""
LEGEND_INCHES = 0.3
"""Room above such a chart for its legend."""
PROMPT_STYLES = ("solid", "dashed", "dashdot", "dotted")
"""Of prompts with more and more solved examples."""
TARGET_COLOURS = (MUTED, ACCENT, GOOD)
"""Of the forecasts' targets, lowest first."""


def curves_chart(shot: ShotAnalysis, title: str) -> Markup:
    """Agreement with the last layer and accuracy, layer by layer, with their bands."""
    lines = [
        ("calibrated head", shot.calibrated.agreement, shot.calibrated, ACCENT, "solid"),
        ("logit lens", shot.lens.agreement, shot.lens, MUTED, "solid"),
    ]
    if shot.calibrated.accuracy is not None:
        lines.append(("accuracy", shot.calibrated.accuracy, shot.calibrated, GOOD, "dashed"))
    description = "; ".join(
        f"{name}: {', '.join(percent(point.value, 0) for point in points)}"
        for name, points, _, _, _ in lines
    )

    def draw(axes: Axes, shape: str) -> None:
        for name, points, curve, colour, style in lines:
            axes.fill_between(
                curve.layers,
                [point.lower for point in points],
                [point.upper for point in points],
                color=colour,
                alpha=0.13,
                linewidth=0,
            )
            values = [point.value for point in points]
            axes.plot(
                curve.layers, values, color=colour, linewidth=1.6, linestyle=style, label=name
            )
        axes.set_ylim(0, 1.03)
        _layer_axis(axes, shot.lens.layers[-1])
        axes.legend(
            loc="lower right", frameon=False, fontsize=8.5, labelcolor="linecolor", borderpad=0
        )

    return draw_chart(title, description, draw)


def prompts_chart(analysis: DomainAnalysis, title: str) -> Markup:
    """Agreement of the calibrated heads and their accuracy, layer by layer, a line per prompt."""
    description = "; ".join(
        f"{shot.shots}-shot: "
        + ", ".join(percent(one.value, 0) for one in shot.calibrated.agreement)
        for shot in analysis.shots
    )

    def draw(axes: Axes, shape: str) -> None:
        for shot, style in zip(analysis.shots, PROMPT_STYLES, strict=False):
            curve = shot.calibrated
            for name, points, colour in (
                ("agreement", curve.agreement, ACCENT),
                ("accuracy", curve.accuracy or (), GOOD),
            ):
                axes.plot(
                    curve.layers[: len(points)],
                    [point.value for point in points],
                    color=colour,
                    linewidth=1.4,
                    linestyle=style,
                    label=f"{name}, {shot.shots}-shot" if points else None,
                )
        axes.set_ylim(0, 1.03)
        _layer_axis(axes, analysis.depth)
        axes.legend(
            loc="lower right",
            ncols=2 if shape == "wide" else 1,
            frameon=False,
            fontsize=8.5,
            labelcolor="linecolor",
            borderpad=0,
        )

    return draw_chart(title, description, draw)


def depth_chart(shot: ShotAnalysis, title: str) -> Markup:
    """At which layer the answers settle: a bar per layer, by lens and by calibrated head."""
    lens, calibrated = _settling(shot.lens), _settling(shot.calibrated)
    description = "; ".join(
        f"layer {layer}: {percent(part, 0)}" for layer, part in calibrated.items() if part
    )

    def draw(axes: Axes, shape: str) -> None:
        for name, parts, colour, aside in (
            ("calibrated head", calibrated, ACCENT, -0.2),
            ("logit lens", lens, MUTED, 0.2),
        ):
            places = [layer + aside for layer in parts]
            axes.bar(places, list(parts.values()), width=0.38, color=colour, label=name)
        _layer_axis(axes, shot.lens.layers[-1])
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.legend(
            loc="upper right", frameon=False, fontsize=8.5, labelcolor="linecolor", borderpad=0
        )

    return draw_chart(title, description, draw)


def importance_chart(analysis: DomainAnalysis, title: str) -> Markup:
    """Answers that change where a layer is left out, with intervals."""
    layers = [one.layer for one in analysis.importance]
    lost = [1 - one.agreement.value for one in analysis.importance]
    low = [1 - one.agreement.upper for one in analysis.importance]
    high = [1 - one.agreement.lower for one in analysis.importance]
    description = "; ".join(
        f"without layer {layer}: {percent(part, 0)} of the answers change"
        for layer, part in zip(layers, lost, strict=True)
    )

    def draw(axes: Axes, shape: str) -> None:
        axes.bar(layers, lost, width=0.62, color=ACCENT, alpha=0.85)
        axes.vlines(layers, low, high, color=INK, linewidth=1)
        axes.set_ylim(0, 1.05 * max(high))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        _layer_axis(axes, analysis.depth)

    return draw_chart(title, description, draw)


def forecast_chart(analysis: DomainAnalysis, title: str) -> Markup:
    """Net saving at each target, a group per prompt."""
    rows = [
        (f"{shot.shots}-shot", [(one.target, one.saving) for one in shot.forecasts])
        for shot in analysis.shots
    ]
    return _dots(rows, title)


def savings_chart(analyses: Sequence[DomainAnalysis], title: str) -> Markup:
    """Net saving at each target, a group per domain, with its first prompt."""
    rows = [
        (one.domain, [(each.target, each.saving) for each in one.shots[0].forecasts])
        for one in analyses
    ]
    return _dots(rows, title)


def importance_map(analyses: Sequence[DomainAnalysis], title: str) -> Markup:
    """Domains against layers: the darker, the more answers change without that layer."""
    description = "; ".join(
        f"{one.domain}: "
        + ", ".join(percent(1 - each.agreement.value, 0) for each in one.importance)
        for one in analyses
    )

    def draw(axes: Axes, shape: str) -> None:
        _rows_axis(axes, [one.domain for one in analyses])
        for row, one in enumerate(analyses):
            for each in one.importance:
                lost = 1 - each.agreement.value
                axes.barh(
                    row,
                    0.94,
                    left=each.layer - 0.47,
                    height=0.86,
                    color=ACCENT,
                    alpha=0.6 * lost**0.5,
                )
                if shape == "wide" and lost >= 0.005:
                    axes.text(
                        each.layer,
                        row,
                        f"{100 * lost:.0f}",
                        ha="center",
                        va="center",
                        fontsize=8,
                        color=INK,
                    )
        axes.set_xlim(0.5, max(len(one.importance) for one in analyses) + 0.5)
        axes.grid(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))

    return draw_chart(title, description, draw)


def _dots(rows: Sequence[tuple[str, list[tuple[float, Estimate]]]], title: str) -> Markup:
    description = "; ".join(
        f"{name} at {percent(target, 0)}: {percent(saving.value)} "
        f"({percent(saving.lower)} to {percent(saving.upper)})"
        for name, found in rows
        for target, saving in found
    )
    least = min(saving.lower for _, found in rows for _, saving in found)

    def draw(axes: Axes, shape: str) -> None:
        _rows_axis(axes, [name for name, _ in rows], above=LEGEND_INCHES)
        for row, (_, found) in enumerate(rows):
            for place, (target, saving) in enumerate(found):
                height = row + (place - (len(found) - 1) / 2) * 0.24
                colour = TARGET_COLOURS[place % len(TARGET_COLOURS)]
                axes.hlines(height, saving.lower, saving.upper, color=colour, linewidth=1.4)
                axes.plot(
                    [saving.value],
                    [height],
                    "o",
                    color=colour,
                    markersize=4.5,
                    label=f"at {percent(target, 0)}" if row == 0 else None,
                )
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_xlim(min(-0.02, least - 0.02), 1)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8])
        axes.xaxis.set_major_formatter(PERCENT)
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(rows[0][1]),
            frameon=False,
            fontsize=8.5,
            labelcolor="linecolor",
            borderpad=0.2,
            handletextpad=0,
        )

    return draw_chart(title, description, draw)


def _rows_axis(axes: Axes, names: Sequence[str], above: float = TOP) -> None:
    """One row a name, first on top: the figure grows with them, the left margin with the names."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    width = figure.get_figwidth()
    height = ROW_INCHES * len(names) + above + BOTTOM
    figure.set_figheight(height)
    left = min(0.075 * max(map(len, names)) + 0.1, 0.4 * width)
    axes.set_position(
        (left / width, BOTTOM / height, 1 - (left + RIGHT) / width, 1 - (BOTTOM + above) / height)
    )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _layer_axis(axes: Axes, depth: int) -> None:
    """Layers from the first to the last, shares upwards."""
    axes.set_xlim(0.4, depth + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.yaxis.set_major_formatter(PERCENT)


def _settling(curve: LayerCurve) -> dict[int, float]:
    """Share of requests whose answer settles at each layer."""
    gains = [after - before for before, after in pairwise((0.0, *curve.settled))]
    return dict(zip(curve.layers, gains, strict=True))
