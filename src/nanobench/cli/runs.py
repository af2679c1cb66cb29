"""The runs that a command reads: which ones are chosen, and their cells."""

from typing import TYPE_CHECKING, Annotated

import typer

from nanobench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from nanobench.results.store import Run

RESULTS = "a run's folder, or a folder of runs, or their URI; default: the newest run in results/"
Results = Annotated[str, typer.Argument(metavar="RESULTS", help=RESULTS, show_default=False)]

Figures = Annotated[
    str, typer.Option("--plot", metavar="DIR", help="draw the figure as PNG and SVG into DIR", show_default=False)
]


def chosen(results: str) -> list["Run"]:
    """The runs in a folder, or the newest run in results/ without one. Raises UserError where there is none."""
    from nanobench.results import finder

    runs = finder.find_runs(results or "results")
    return runs if results else runs[-1:]


def cells_of(run: "Run") -> "pd.DataFrame":
    """The cells of a run. Raises UserError where no trial has finished yet."""
    from nanobench.results import store

    cells = store.load_runs([run])
    if cells.empty:
        raise unfinished(run)
    return cells


def unfinished(run: "Run") -> UserError:
    """The error for a run without a finished trial."""
    from nanobench.results import request

    info = run.info()
    resume = request.resumed(info.command, run.place)
    fix = f"continue the run with: {resume}" if resume else f"measure again: {request.again(info.command, info.requested)}"
    return UserError(f"{run.place} has no finished trial yet; {fix}")


def all_cells(results: str) -> "pd.DataFrame":
    """The cells of all chosen runs."""
    import pandas as pd

    return pd.concat([cells_of(run) for run in chosen(results)], ignore_index=True)


def beside(run: "Run") -> str:
    """What ends the line where files cannot be written beside a run at a URI: the copy here has them."""
    return f"the files are in the copy on this machine, {run.folder}" if run.is_copy else ""
