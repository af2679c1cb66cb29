"""The command that prints the cells in a format for other programs: export."""

from pathlib import Path
from typing import Annotated

import typer

from nanobench import errors
from nanobench.cli.app import simple_command
from nanobench.cli.runs import Results, all_cells
from nanobench.errors import writing

FORMATS = ("csv", "json", "md")


@simple_command("export")
def export(
    results: Results = "",
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help=", ".join(FORMATS))] = "csv",
    out: Annotated[str, typer.Option(metavar="FILE", help="FILE to write; default: standard output", show_default=False)] = "",
) -> None:
    """Print the cells as CSV, JSON or a Markdown table."""
    if form not in FORMATS:
        raise errors.unknown("format", form, FORMATS)
    from nanobench.results import store
    from nanobench.views.report import EXPORTS

    text = EXPORTS[form](all_cells(results)).rstrip("\n") + "\n"
    if not out:
        typer.echo(text, nl=False)
        return
    with writing(Path(out)):
        store.write_atomically(Path(out), lambda path: path.write_text(text))
    typer.echo(out)
