"""The command that compares two recorded runs: compare."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanobench import errors
from nanobench.cli.app import AsJson, make_console, printer, simple_command
from nanobench.cli.runs import Figures
from nanobench.errors import UserError, writing

if TYPE_CHECKING:
    from nanobench.analysis.compare import Comparison

FORMATS = ("table", "md", "json", "html")
NOT_COMPARABLE = 3


@simple_command("compare")
def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="folder or URI of the earlier run", show_default=False)],
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="folder or URI of the run that is compared with it", show_default=False)
    ],
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help=", ".join(FORMATS))] = "table",
    out: Annotated[str, typer.Option(metavar="FILE", help="FILE to write; default: standard output", show_default=False)] = "",
    plot: Figures = "",
    descriptive: Annotated[
        bool, typer.Option("--descriptive", help="show the throughput of two machines beside each other, without a verdict")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two recorded runs, cell by cell: faster, slower, same, ambiguous or not comparable, and what differs.

    Exit code 0: no cell is slower; 1: one is; 3: speed cannot be compared. To decide on a change, measure both in turns: ab.
    """
    form = "json" if as_json else form
    if form not in FORMATS:
        raise errors.unknown("format", form, FORMATS)
    if out and form == "table":
        raise UserError(f"--out {out!r} needs --format md, json or html")
    from nanobench.analysis import compare as analysis
    from nanobench.analysis import recorded_run
    from nanobench.analysis.compare import Change, Relation
    from nanobench.views import compare as views

    runs = recorded_run.read(base), recorded_run.read(new)
    found = analysis.compare(*runs)
    if form == "table":
        show(found, base, new)
    else:
        write(text_of(found, form, base, new), out)
    if plot:
        from nanobench.views.figures import compare_forest

        with writing(Path(plot)):
            paths = compare_forest.draw(found, base, new, Path(plot))
        for path in paths:
            typer.echo(path, err=form != "table")
    if descriptive and found.relation is Relation.CROSS_MACHINE:
        for line in views.descriptive(analysis.throughputs(*runs)):
            typer.echo(line, err=form != "table")
        return
    if found.relation is Relation.CROSS_MACHINE or found.change is Change.NOT_COMPARABLE:
        raise typer.Exit(NOT_COMPARABLE)
    if found.change is Change.SLOWER:
        raise typer.Exit(1)


def show(found: "Comparison", base: str, new: str) -> None:
    """Prints what differs, the table and the verdict."""
    from nanobench.views import compare as views
    from nanobench.views.console import Fitted

    console = make_console()
    say = printer(console)
    for line in views.lines(found, base, new):
        say(line)
    console.print(Fitted(views.table(found)))
    for line in views.verdict(found):
        say(line)


def text_of(found: "Comparison", form: str, base: str, new: str) -> str:
    """The comparison in a format."""
    from nanobench.views import compare as views

    if form == "html":
        from nanobench.views.html import compare_page

        return compare_page.page(found, base, new)
    return views.page(found, base, new) if form == "md" else json.dumps(views.document(found, base, new), allow_nan=False)


def write(text: str, out: str) -> None:
    """Writes a file, whole or not at all, and prints its path; prints the text without one."""
    from nanobench.results import store

    if not out:
        typer.echo(text)
        return
    with writing(Path(out)):
        store.write_atomically(Path(out), lambda part: part.write_text(text, encoding="utf-8", errors="replace"))
    typer.echo(out)
