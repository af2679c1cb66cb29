"""The command that writes the reports of runs: report."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanobench.cli.app import simple_command
from nanobench.cli.runs import RESULTS, beside, chosen, unfinished
from nanobench.errors import UserError, writing

if TYPE_CHECKING:
    from nanobench.analysis.report import Study
    from nanobench.results.store import Run

SEARCH, PAGE, SEVERAL = "autobatch.json", "report.html", "runs.html"


@simple_command("report")
def report(
    results: Annotated[list[str] | None, typer.Argument(metavar="RESULTS", help=RESULTS, show_default=False)] = None,
    opens: Annotated[bool, typer.Option("--open", help="open the last page that was written in a browser")] = False,
) -> None:
    """Draw every figure and write report.md and report.html into the run's folder; runs.html shows several side by side."""
    searches = [path for path in results or [] if (Path(path) / SEARCH).is_file()]
    paths = [path for path in results or [""] if path not in searches]
    runs = {run.folder.resolve(): run for path in paths for run in chosen(path)}
    pages = [searched(Path(path)) for path in searches]
    written = [reported(run) for run in runs.values()]
    pages += [run.folder / PAGE for run in runs.values()]
    if len(written) > 1:
        studies, figures = zip(*written, strict=True)
        pages.append(side_by_side(list(studies), list(figures), any(run.is_copy for run in runs.values())))
    if opens:
        import webbrowser

        if not webbrowser.open(pages[-1].resolve().as_uri()):
            raise UserError(f"no browser was found for {pages[-1]}; open the file in one")


def reported(run: "Run") -> "tuple[Study, list[Path]]":
    """Writes the figures and both reports of a run. Returns what the run says, and the files of its figures."""
    from nanobench.analysis.report import study
    from nanobench.views import plots
    from nanobench.views import report as views
    from nanobench.views.html import run_page

    found = study(run)
    if found.cells.empty:
        raise unfinished(run)
    with writing(run.place, beside(run)):
        paths = plots.draw_all(found.cells, found.launches, run.plots)
        run.publish(*paths)
        said, facts = views.verdict_of(found.info, found.cells, found.launches), (found.name, found.info, found.cells)
        write(run.folder / "report.md", views.markdown(*facts, said, paths, run.folder, found.timed_share), run)
        write(run.folder / PAGE, run_page.page(found, paths), run)
    return found, paths


def searched(folder: Path) -> Path:
    """Writes the page of a search of a batch size."""
    from nanobench.views.html import search_page

    page = folder / PAGE
    with writing(folder):
        write(page, search_page.page(folder / SEARCH))
    return page


def side_by_side(studies: "list[Study]", figures: list[list[Path]], is_copied: bool) -> Path:
    """Writes the page that shows several runs, into the folder that holds them all: the current one, where that is the root,
    and where they are copies of runs at URIs.
    """
    from nanobench.views.html import runs_page

    common = Path(os.path.commonpath([each.folder.resolve().parent for each in studies]))
    here = Path.cwd()
    below = common.relative_to(here) if common.is_relative_to(here) else common
    folder = Path() if is_copied or common == Path(common.anchor) else below
    page = folder / SEVERAL
    with writing(page):
        write(page, runs_page.page(studies, figures, folder))
    return page


def write(path: Path, text: str, run: "Run | None" = None) -> None:
    """Writes a file, of a run where one is given, whole or not at all, and prints its path or URI."""
    from nanobench.results import store

    store.write_atomically(path, lambda part: part.write_text(text, encoding="utf-8", errors="replace"))
    if run is not None:
        run.publish(path)
    typer.echo(run.where(path) if run is not None else path)
