"""What a reader of an SVG sees where the mouse rests on a point: its line, its place, and its value with its interval."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary
from xml.sax.saxutils import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from nanobench.views import format

POINTS_PER_INCH = 72
"""Units of an SVG of matplotlib per inch."""
NEAR = 0.1
"""Points of an SVG and of a line that are closer than this, in its units, are one."""
NO_POINTS = (None, "", " ", "None", "none", "_", "|")
"""Markers of lines without points, and of the ends of intervals."""
MARKER = re.compile(r'<use xlink:href="#m\w+" x="([-\d.]+)" y="([-\d.]+)"[^>]*/>')
BOUNDS: "WeakKeyDictionary[Line2D, tuple[Any, Any]]" = WeakKeyDictionary()
"""Line -> the lower and upper bounds of its points."""
NAMES: "WeakKeyDictionary[Line2D, Sequence[str]]" = WeakKeyDictionary()
"""Line -> what its points are called, where axes and legend do not say it."""
STEPS: "WeakKeyDictionary[Axes, Sequence[float]]" = WeakKeyDictionary()
"""Axes -> the values that points stand over, from which lines are moved apart a little."""
Place = tuple[int, int]
"""Horizontal and vertical place in an SVG, in steps of NEAR."""


def remember(line: Line2D, low: Any, high: Any) -> None:
    """Keeps the bounds of a line's points, which a band shows, for their tooltips."""
    BOUNDS[line] = (low, high)


def name(line: Line2D, words: Sequence[str]) -> None:
    """Keeps what the points of a line are called: all that their tooltips say."""
    NAMES[line] = words


def add(figure: Figure, path: Path) -> None:
    """Gives each point of a figure its tooltip, in the SVG that was just written of it."""
    words = texts(points(figure))

    def titled(found: re.Match[str]) -> str:
        text = at(words, float(found[1]), float(found[2]))
        return f"<g><title>{escape(text)}</title>{found[0]}</g>" if text else found[0]

    if words:
        path.write_text(MARKER.sub(titled, path.read_text(encoding="utf-8")), encoding="utf-8")


def texts(found: Iterable[tuple[Place, str]]) -> dict[Place, str]:
    """The words of each place. Points that coincide share them; a point that is drawn again, as hollow, says nothing new."""
    lines: dict[Place, list[str]] = {}
    for where, text in found:
        here = lines.setdefault(where, [])
        here += [] if any(each.startswith(text) for each in here) else [text]
    return {where: "; ".join(here) for where, here in lines.items()}


def at(words: dict[Place, str], x: float, y: float) -> str:
    """The words of the point at a place; empty where there is none."""
    column, row = place(x, y)
    near = ((column + right, row + down) for right in (0, -1, 1) for down in (0, -1, 1))
    return next((words[each] for each in near if each in words), "")


def place(x: float, y: float) -> Place:
    """A place in steps of NEAR."""
    return round(x / NEAR), round(y / NEAR)


def points(figure: Figure) -> Iterator[tuple[Place, str]]:
    """The place and the words of every point of every line."""
    names, height = names_of(figure), figure.get_size_inches()[1] * POINTS_PER_INCH
    for axes in figure.axes:
        labels = label_of(axes, "x"), label_of(axes, "y")
        for line in filter(is_points, axes.lines):
            own, name = NAMES.get(line), names.get(style_of(line), "")
            data = np.asarray(line.get_xydata(), dtype=float)
            places = axes.transData.transform(data) * POINTS_PER_INCH / figure.dpi
            for number, ((x, y), (right, up)) in enumerate(zip(data, places, strict=True)):
                if math.isfinite(x) and math.isfinite(y):
                    value = f"{labels[1]} {value_text(axes, y)} {interval(axes, line, number)}".strip()
                    words = [name, f"{labels[0]} {step_text(axes, x)}", value]
                    text = own[number] if own else ", ".join(filter(None, map(str.strip, words)))
                    yield place(right, height - up), text


def is_points(line: Line2D) -> bool:
    """Whether a line shows its points as markers, which are not the ends of intervals."""
    return line.get_marker() not in NO_POINTS and bool(np.size(line.get_xydata()))


def names_of(figure: Figure) -> dict[tuple[str, str], str]:
    """Colour and marker -> what the legend says that they are."""
    found = {}
    for legend in figure.legends:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            if isinstance(handle, Line2D) and is_points(handle):
                found[style_of(handle)] = text.get_text()
    return found


def style_of(line: Line2D) -> tuple[str, str]:
    """What tells a line from others."""
    return to_hex(line.get_color()), str(line.get_marker())


def label_of(axes: Axes, axis: str) -> str:
    """The label of an axis, or of the one that stands for it: below its column, or left of its row."""
    span = {"x": "colspan", "y": "rowspan"}[axis]
    mine = axes.get_subplotspec()
    others = [other for other in axes.figure.axes if other.get_subplotspec() is not None] if mine else []
    alike = [other for other in others if getattr(other.get_subplotspec(), span) == getattr(mine, span)]
    labels = (str(getattr(each, f"get_{axis}label")()) for each in (axes, *alike))
    return " ".join(next(filter(None, labels), "").split())


def step_text(axes: Axes, x: float) -> str:
    """The place of a point along the x axis: the value that it stands over, from which lines are moved apart a little."""
    values = STEPS.get(axes, ())
    if len(values) and min(x, *values) > 0:
        x = min(values, key=lambda value: abs(math.log(value / x)))
    return format.tick(float(x))


def value_text(axes: Axes, y: float) -> str:
    """A value as its axis writes it."""
    formatter = axes.yaxis.get_major_formatter()
    return formatter(y) if isinstance(formatter, FuncFormatter) else format.number(float(y))


def interval(axes: Axes, line: Line2D, number: int) -> str:
    """[4.9x, 5.7x]; empty where the point has none."""
    if line not in BOUNDS:
        return ""
    low, high = (float(np.asarray(bound, dtype=float)[number]) for bound in BOUNDS[line])
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{value_text(axes, low)}, {value_text(axes, high)}]"
