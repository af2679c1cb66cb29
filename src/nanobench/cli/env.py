"""The command that shows the machine and its problems: env."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from nanobench.cli.app import app, make_console
from nanobench.sweep.session import describe_machine


@app.command("env")
def env(as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False) -> None:
    """Show the machine's identity and its state, and for each problem what it does to the numbers and how to mend it."""
    from nanobench.analysis import diagnostics
    from nanobench.views import env as views

    description = describe_machine("auto")
    problems = diagnostics.problems(description.identity, description.state)
    if as_json:
        told = {"identity": description.identity, "state": description.state}
        typer.echo(json.dumps({**told, "problems": [asdict(problem) for problem in problems]}))
        return
    console = make_console()
    for table in (views.facts("identity", description.identity), views.facts("state", description.state)):
        console.print(table)
    console.print(views.problems(problems))
