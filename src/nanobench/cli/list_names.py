"""The command that lists what can be named."""

from pathlib import Path
from typing import Annotated

import typer

from nanobench import errors, registry
from nanobench.cli.app import app

LISTS = ("models", "engines", "samplers", "optimizers", "metrics", "plots", "executors", "configs")


@app.command("list")
def list_names(what: Annotated[str, typer.Argument(help=", ".join(LISTS))]) -> None:
    """List what can be named."""
    if what not in LISTS:
        raise errors.unknown("list", what, LISTS)
    if what == "metrics":
        from nanobench.results.derive import METRICS

        for metric in METRICS:
            typer.echo(f"{metric.name:22} {metric.unit:7} {metric.formula}")
    elif what == "plots":
        from nanobench.views.plots import PLOTS

        for name, draw in PLOTS.items():
            typer.echo(f"{name:34} {(draw.__doc__ or '').partition(chr(10))[0]}")
    elif what == "configs":
        for path in sorted(Path("configs").glob("*.toml")):
            typer.echo(f"{path.stem:22} {path.read_text().partition(chr(10))[0].lstrip('# ')}")
    else:
        for name in registry.names(what):
            typer.echo(name)
