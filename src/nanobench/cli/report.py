"""The command that writes a run's report: report."""

from typing import Annotated

import typer

from nanobench.cli.app import simple_command
from nanobench.cli.runs import RESULTS, cells_of, chosen
from nanobench.errors import writing


@simple_command("report")
def report(
    results: Annotated[list[str] | None, typer.Argument(metavar="RESULTS", help=RESULTS, show_default=False)] = None,
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
                folder.name, run.info(), cells, verdict.sentences(cells), verdict.counts(cells), paths, run.folder
            )
            store.write_atomically(target, lambda path, text=text: path.write_text(text))
        typer.echo(target)
