"""Matplotlib's drawings as inline SVG whose colours are CSS variables.

One picture then serves light, dark and print. Every chart comes in two shapes, since text that is
readable on a wide page is dust on a phone; the style sheet shows one of them. Nothing is set as an
inline style, so a page may forbid those.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Sequence
from html import escape

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rollout.reporting.page import STYLE

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
SHAPES = {"wide": (6.3, 2.5), "narrow": (3.6, 2.4)}
"""Inches, at 72 points each: a column of a wide page, and a phone."""

LEFT, RIGHT, TOP, BOTTOM = 0.46, 0.06, 0.08, 0.26
"""Margins in inches: room for 100 % on the left and a line of text below."""

GAP, TITLE = 16.0, 30.0
"""Between the charts of one file, and for the title above each, in points."""

# matplotlib keeps its settings and font cache in one place for the whole process.
_DRAWING = threading.Lock()


def draw_chart(title: str, description: str, draw: Callable[[Axes, str], None]) -> Markup:
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
    with (
        _DRAWING,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9.0}),
    ):
        figure = Figure(figsize=size)
        figure.patch.set_alpha(0)
        width, height = size
        # Fixed margins: a layout engine would draw every chart twice to find them.
        axes = figure.add_axes(
            (
                LEFT / width,
                BOTTOM / height,
                1 - (LEFT + RIGHT) / width,
                1 - (BOTTOM + TOP) / height,
            )
        )
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


def empty_chart(title: str, why: str) -> Markup:
    """The place of a chart that has nothing to show, in words."""
    return Markup('<p class="nothing" aria-label="{}">{}.</p>').format(title, why)


def picture(charts: Sequence[tuple[str, Markup]], columns: int = 1) -> str:
    """An SVG file of charts' wide shapes under their titles, light or dark as the viewer is."""
    parts, height = [], GAP
    step = 72 * SHAPES["wide"][0] + GAP
    for first in range(0, len(charts), columns):
        tallest = 0.0
        for column, (title, chart) in enumerate(charts[first : first + columns]):
            svg = re.search(r'<svg class="chart wide"(.*?)viewBox="0 0 ([\d.]+) ([\d.]+)"', chart)
            if svg is None:
                raise ValueError(f"{title}: not a chart of draw_chart")
            end = chart.index("</svg>", svg.end()) + len("</svg>")
            x = GAP + column * step
            parts.append(
                f'<text x="{x:g}" y="{height + TITLE - 8:g}" fill="var(--ink)" font-size="13" '
                f'font-weight="600">{escape(title)}</text>'
                f'<svg x="{x:g}" y="{height + TITLE:g}" width="{svg[2]}" height="{svg[3]}"{svg[1]}'
                f'viewBox="0 0 {svg[2]} {svg[3]}"{chart[svg.end() : end]}'
            )
            tallest = max(tallest, float(svg[3]))
        height += TITLE + tallest + GAP
    width = GAP + columns * step
    colours = STYLE[: STYLE.index("*, *::before")]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {height:g}" '
        f'font-family="Helvetica, Arial, sans-serif"><style>{colours}</style>'
        f'<rect width="100%" height="100%" fill="var(--paper)"/>{"".join(parts)}</svg>\n'
    )
