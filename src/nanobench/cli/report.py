"""Commands that show what was measured: plot, report, export."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobench import errors
from nanobench.cli.app import app
from nanobench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from nanobench.results.store import Run

RESULTS = "a run's folder, or a folder of runs; default is the newest run in results/"
FORMATS = ("csv", "json", "md")


@app.command("plot")
def plot(
    name: Annotated[str, typer.Argument(metavar="NAME", help="which figure; `nanobench list plots` names them")],
    results: Annotated[str, typer.Argument(metavar="[RESULTS]", help=RESULTS, show_default=False)] = "",
) -> None:
    """Draw one figure as PNG and SVG into the run's plots/ folder."""
    from nanobench.views import plots

    if name not in plots.PLOTS:
        raise errors.unknown("plot", name, plots.PLOTS)
    runs = chosen(results)
    refusals = []
    for run in runs:
        cells = cells_of(run)
        try:
            with writing(run.plots):
                paths = plots.draw(name, cells, run.read_raw(), run.plots)
        except UserError as refusal:
            refusals.append(refusal)
            continue
        for path in paths:
            typer.echo(path)
    if len(refusals) == len(runs):
        raise refusals[0]


@app.command("report")
def report(
    results: Annotated[list[str] | None, typer.Argument(metavar="[RESULTS]...", help=RESULTS, show_default=False)] = None,
) -> None:
    """Draw every figure and write report.md into the run's folder."""
    from nanobench.analysis import verdict
    from nanobench.results import store
    from nanobench.views import plots
    from nanobench.views import report as views

    runs = {run.folder.resolve(): run for path in results or [""] for run in chosen(path)}
    for folder, run in runs.items():
        cells, target = cells_of(run), run.folder / "report.md"
        with writing(run.folder):
            paths = plots.draw_all(cells, run.read_raw(), run.plots)
            text = views.markdown(
                folder.name, about_of(run.info()), cells, verdict.sentences(cells), verdict.counts(cells), paths, run.folder
            )
            store.write_atomically(target, lambda path, text=text: path.write_text(text))
        typer.echo(target)


@app.command("export")
def export(
    results: Annotated[str, typer.Argument(metavar="[RESULTS]", help=RESULTS, show_default=False)] = "",
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help=", ".join(FORMATS))] = "csv",
    out: Annotated[
        str, typer.Option(metavar="FILE", help="FILE to write; default is standard output", show_default=False)
    ] = "",
) -> None:
    """Print the cells as CSV, JSON or a Markdown table."""
    if form not in FORMATS:
        raise errors.unknown("format", form, FORMATS)
    import pandas as pd

    from nanobench.results import store
    from nanobench.views.report import EXPORTS

    text = EXPORTS[form](pd.concat([cells_of(run) for run in chosen(results)], ignore_index=True)).rstrip("\n") + "\n"
    if not out:
        typer.echo(text, nl=False)
        return
    with writing(Path(out)):
        store.write_atomically(Path(out), lambda path: path.write_text(text))
    typer.echo(out)


def chosen(results: str) -> list["Run"]:
    """The runs that RESULTS means. Raises UserError where there is none."""
    from nanobench.results import store

    runs = store.find_runs(results or "results")
    return runs if results else runs[-1:]


def cells_of(run: "Run") -> "pd.DataFrame":
    """The cells of a run. Raises UserError where no trial has finished yet."""
    from nanobench.results import store

    cells = store.load(run.folder)
    if cells.empty:
        mend = f"nanobench {run.info().command} --resume {run.folder}"
        raise UserError(f"{run.folder} holds no finished trial yet; go on with it: {mend}")
    return cells


@contextmanager
def writing(path: Path) -> Iterator[Any]:
    """Turns a path that cannot be written into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def about_of(info: Any) -> dict[str, Any]:
    """SHIM"""
    return {
        **info.to_json(),
        "asked": info.requested,
        "finished_at": info.finished_at,
        "wall_s": info.wall_s,
        "seed": info.plan.seed,
    }
