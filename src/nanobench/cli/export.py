"""The command that prints the cells in a format for other programs: export."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nanobench import errors
from nanobench.cli.app import simple_command
from nanobench.cli.runs import Results, all_cells, chosen
from nanobench.errors import writing

FORMATS = ("csv", "json", "md", "pytest-benchmark")


@simple_command("export")
def export(
    results: Results = "",
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help=", ".join(FORMATS))] = "csv",
    out: Annotated[str, typer.Option(metavar="FILE", help="FILE to write; default: standard output", show_default=False)] = "",
) -> None:
    """Print the cells as CSV, JSON, a Markdown table, or a file that `pytest-benchmark compare` reads."""
    if form not in FORMATS:
        raise errors.unknown("format", form, FORMATS)
    from nanobench.results import store

    text = text_of(results, form).rstrip("\n") + "\n"
    if not out:
        typer.echo(text, nl=False)
        return
    with writing(Path(out)):
        store.write_atomically(Path(out), lambda path: path.write_text(text))
    typer.echo(out)


def text_of(results: str, form: str) -> str:
    """The chosen runs in a format."""
    if form == "pytest-benchmark":
        from nanobench.views import pytest_benchmark

        return json.dumps(pytest_benchmark.document((run.info(), run.read_raw()) for run in chosen(results)), allow_nan=False)
    from nanobench.views.report import EXPORTS

    return EXPORTS[form](all_cells(results))
