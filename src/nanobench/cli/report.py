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
    from nanobench.results import derive, store
    from nanobench.views import plots
    from nanobench.views import report as views

    runs = {run.folder.resolve(): run for path in results or [""] for run in chosen(path)}
    for folder, run in runs.items():
        cells, launches, info, target = cells_of(run), run.read_raw(), run.info(), run.folder / "report.md"
        share = derive.timed_share(launches, info.wall_s) if info.wall_s else None
        with writing(run.folder):
            paths = plots.draw_all(cells, launches, run.plots)
            text = views.markdown(folder.name, info, cells, verdict.sentences(cells), paths, run.folder, share)
            store.write_atomically(target, lambda path, text=text: path.write_text(text))
        typer.echo(target)
