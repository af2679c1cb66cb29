"""Faulty methods of published scripts: what each would publish, over our figure with its interval."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nanobench.analysis.audit import Found, Row
from nanobench.errors import UserError
from nanobench.views import audit as words
from nanobench.views import format
from nanobench.views.figures import layout, tooltips
from nanobench.views.figures.layout import HOLLOW
from nanobench.views.figures.style import COLOURS, STYLE

ROW_IN = 0.3
OURS: Any = {"color": COLOURS[1], "marker": "o", "linestyle": ""}
PUBLISHED: dict[Found, Any] = {
    Found.WRONG: {"color": COLOURS[2], "marker": "D", "linestyle": "", "label": "published, beyond our interval"},
    Found.SMALL: {"color": COLOURS[3], "marker": "s", "linestyle": "", "label": "published, within our interval"},
    Found.UNKNOWN: {"color": COLOURS[0], "marker": "v", "linestyle": "", "label": "published, our figure is excluded"},
}
"""What was found -> how the published figure is drawn."""
TICKS = tuple(digit * 10.0**power for power in range(-9, 10) for digit in (1, 2, 5))
MOST_TICKS = 9
"""Beyond this number of ticks only powers of ten are left."""


def draw(rows: Sequence[Row], where: str, folder: Path) -> list[Path]:
    """The figure as PNG and SVG in a folder. Raises UserError where no method has a factor."""
    with mpl.rc_context(STYLE):
        return layout.save(published_over_ours(rows, where), folder, "audit")


def published_over_ours(rows: Sequence[Row], where: str) -> Figure:
    """Each published figure relative to ours, which is 1 with its interval. `where` names model, shape and device."""
    known = [row for row in rows if row.factor is not None]
    if not known:
        raise UserError("the figure of audit needs a method with a reliable figure beside it; the table says why there is none")
    drawing, grid = layout.make(1, 1, [ROW_IN * len(known) + 0.6])
    axes = grid.flat[0]
    axes.axvline(1.0, color="0.4", linewidth=0.9, zorder=1)
    for place, row in enumerate(known):
        draw_row(axes, place, row)
    scale(axes, [end for row in known for end in [row.factor or 1.0, *bounds(row)]])
    axes.set_xlabel("published / ours (x)")
    axes.annotate("published, ours [95 %]", (1.01, 1.01), xycoords="axes fraction", fontsize=7.5, color="0.35", weight="bold")
    axes.set_yticks(range(len(known)), [f"{row.specimen.name}: {row.specimen.publishes}" for row in known])
    axes.set_ylim(len(known) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    left_out = words.left_out(rows)
    lines = [where, f"not in the figure: {left_out}" if left_out else ""]
    return layout.finish(drawing, "What faulty methods publish", list(handles(known)), filter(None, lines))


def bounds(row: Row) -> list[float]:
    """The ends of our interval relative to our figure; empty without one."""
    value, low, high = row.ours.value, row.ours.low, row.ours.high
    return [low / value, high / value] if value and low is not None and high is not None and low < high else []


def draw_row(axes: Axes, place: int, row: Row) -> None:
    """Our figure at 1 with its interval, what was published, and both as text."""
    if ends := bounds(row):
        axes.plot(ends, [place, place], color=OURS["color"], linewidth=1.6, marker="|", markersize=8, zorder=2)
    text = f"{words.figure(row.published, row.specimen.unit)}, ours {words.ours(words.flat(row))}"
    points = (
        *axes.plot([1.0], [place], zorder=2.5, **{**OURS, **(HOLLOW if row.ours.excluded else {})}),
        *axes.plot([row.factor or 1.0], [place], zorder=3, **PUBLISHED[row.found]),
    )
    for point in points:
        tooltips.name(point, [f"{row.specimen.name}: published {text}"])
    axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), fontsize=7.5, color="0.35", va="center")


def scale(axes: Axes, values: Iterable[float]) -> None:
    """A logarithmic axis that ends at ticks beyond all values."""
    found = list(values)
    low, high = max(tick for tick in TICKS if tick <= min(found)), min(tick for tick in TICKS if tick >= max(found))
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xscale("log")
    margin = max(high / low, 2.0) ** 0.03
    axes.set_xlim(low / margin, high * margin)
    axes.xaxis.set_major_locator(
        FixedLocator(ticks if len(ticks) <= MOST_TICKS else [each for each in ticks if is_power(each)])
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format.ratio_tick(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def is_power(value: float) -> bool:
    """Whether a number is a power of ten."""
    return f"{value:.0e}".startswith("1")


def handles(rows: Sequence[Row]) -> Iterable[Line2D]:
    """The legend: ours, and what was found of the published figures."""
    yield Line2D([], [], **{**OURS, "linestyle": "-"}, linewidth=1.6, label="ours, 95 % interval")
    yield from (Line2D([], [], **style) for found, style in PUBLISHED.items() if any(row.found is found for row in rows))
    if any(row.ours.excluded for row in rows):
        yield Line2D([], [], **{**OURS, **HOLLOW}, label="hollow: unreliable, excluded from conclusions")
