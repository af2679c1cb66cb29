"""The figures by name: our own, which `@plot` lists in figures/, those of plug-ins, and functions by their dotted path."""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from nanobench import errors, registry
from nanobench.errors import UserError
from nanobench.records import MEASURED
from nanobench.registry import plug_in
from nanobench.views.figures import layout, style
from nanobench.views.figures.layout import Launches
from nanobench.views.figures.plot import FIGURES, OF_EVERY_ARM, Plot

FIRST = ("speedup", "speedup_by_arm", "by_batch", "token_latency", "timeline", "waterfall")
"""The files whose figures begin the report, in its order."""
FILE_NAME = re.compile(r"\w[\w.-]*")


class Broken(UserError):
    """A figure of a plug-in failed; the data is not to blame."""


@dataclass(frozen=True)
class Foreign:
    """A figure that is not built in."""

    draw: Plot
    title: str
    """how a message names it"""
    origin: str
    """its distribution"""


def own_figures() -> Iterator[Plot]:
    """The functions that `@plot` lists, file by file."""
    files = {path.stem for path in (Path(__file__).parent / "figures").glob("[!_]*.py")}
    for name in (*FIRST, *sorted(files - {*FIRST})):
        module = importlib.import_module(f"nanobench.views.figures.{name}")
        yield from (draw for draw in FIGURES if draw.__module__ == module.__name__)


PLOTS: dict[str, Plot] = {draw.__name__: draw for draw in own_figures()}
"""Our own figures."""


@cache
def plug_ins() -> dict[str, Foreign]:
    """The figures of plug-ins, imported now. One that cannot be imported or called is a warning."""
    found = {}
    for entry in plug_in.usable(registry.plug_ins("plots"), PLOTS, "plot"):
        title = plug_in.title(entry)
        try:
            if not FILE_NAME.fullmatch(entry.name):
                raise UserError(f"{title} is ignored: its name cannot be that of a file; rename its entry point")
            found[entry.name] = Foreign(plug_in.load_function(entry), title, plug_in.origin(entry))
        except UserError as error:
            plug_in.warn(str(error))
    return found


def find(name: str) -> Plot | Foreign:
    """The figure of a name, or of module:function. Raises UserError where there is none."""
    if ":" in name:
        return Foreign(registry.function(name), f"plot {name!r}", "")
    if name not in PLOTS and name not in plug_ins():
        raise errors.unknown("plot", name, (*PLOTS, *plug_ins()), fix="; your own figure: nanobench plot my_mod:my_plot")
    return PLOTS.get(name) or plug_ins()[name]


def about(name: str) -> str:
    """What a figure shows: the first line of the docstring of its function, or its name."""
    found = PLOTS.get(name) or (plug_ins()[name].draw if name in plug_ins() else None)
    text = getattr(found, "__doc__", None)
    return plug_in.printable(text.strip().partition("\n")[0]) if isinstance(text, str) and text.strip() else name


def draw_all(cells: pd.DataFrame, launches: Launches, folder: Path) -> list[Path]:
    """Every figure that the data allows, as PNG and SVG in `folder`. A broken one of a plug-in is a warning."""
    paths = []
    for name in (*PLOTS, *plug_ins()):
        try:
            paths += draw(name, cells, launches, folder)
        except Broken as error:
            plug_in.warn(str(error))
        except UserError:
            continue
    return paths


def draw(name: str, cells: pd.DataFrame, launches: Launches, folder: Path) -> list[Path]:
    """One figure as PNG and SVG in `folder`. Raises UserError where the name is unknown or the data does not allow it."""
    found = find(name)
    if not isinstance(found, Foreign):
        return layout.save(figure(name, cells, launches), folder, name)
    file = name.replace(":", ".")
    try:
        return layout.save(figure(name, cells, launches), folder, file)
    except (UserError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        # What a figure cannot do may show only when it is rendered, after the first of its files was written.
        for path in (folder / f"{file}.png", folder / f"{file}.svg"):
            path.unlink(missing_ok=True)
        raise Broken(f"{found.title} fails: {plug_in.one_line(error)}; {plug_in.FIX}") from error


def figure(name: str, cells: pd.DataFrame, launches: Launches) -> Figure:
    """One figure. Raises UserError where the name is unknown or the data does not allow it."""
    found = find(name)
    if not cells["status"].isin(MEASURED).any():
        raise UserError(f"{name} needs a measured cell and this run has none; nanobench report says why")
    with mpl.rc_context(style.STYLE):
        draw = found.draw if isinstance(found, Foreign) else partial(own, found)
        drawn = draw(cells.reset_index(drop=True), launches)
    if not isinstance(drawn, Figure):
        raise TypeError(f"it gives a {type(drawn).__name__}, not a matplotlib.figure.Figure")
    return drawn


def own(draw: Plot, cells: pd.DataFrame, launches: Launches) -> Figure:
    """One of our own figures, of as many arms as it can distinguish; the others are counted below it."""
    if draw in OF_EVERY_ARM:
        return draw(cells, launches)
    kept, note = layout.most_arms(cells)
    drawn = draw(kept.reset_index(drop=True), launches)
    return layout.foot(drawn, [note]) if note else drawn
