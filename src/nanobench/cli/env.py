"""The command that shows the machine and its problems: env."""

import json
from dataclasses import asdict

import typer

from nanobench.cli.app import AsJson, announce_worker, make_console, simple_command


@simple_command("env")
def env(as_json: AsJson = False) -> None:
    """Show identity and state of the machine, and for each problem its effect on results and the fix."""
    from nanobench.analysis import diagnostics
    from nanobench.sweep.session import describe_machine
    from nanobench.views import env as views

    console = make_console()
    announce_worker(console)
    description = describe_machine("auto")
    problems = diagnostics.problems(description.identity, description.state)
    if as_json:
        machine = {"identity": description.identity, "state": description.state}
        typer.echo(json.dumps({**machine, "problems": [asdict(problem) for problem in problems]}))
        return
    for table in (views.facts("identity", description.identity), views.facts("state", description.state)):
        console.print(table)
    console.print(views.problems(problems))
