"""The command that finds and repairs damaged files of runs: doctor."""

import json
from typing import Annotated

import typer

from nanobench.cli.app import AsJson, make_console, printer, simple_command
from nanobench.errors import UserError, writing


@simple_command("doctor")
def doctor(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="a run's folder, or a folder of runs")] = "results",
    repair: Annotated[bool, typer.Option("--repair", help="repair what can be repaired; nothing measured is deleted")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the files of runs after a crash or a full disk, and repair them. Exit code 1: something is wrong, or stays so."""
    from nanobench.results import doctor as doctors
    from nanobench.results import store

    say = printer(make_console())
    runs = store.folders_below(results)
    found, left = [], 0
    for run in runs:
        for problem in doctors.examine(run):
            done = False
            if repair and problem.repair:
                with writing(problem.path):
                    problem.repair()
                done = True
            left += not done
            found.append({"path": str(problem.path), "problem": problem.what, "fix": problem.fix, "repaired": done})
            say(f"{problem.path} {problem.what}; {'repaired' if done else 'fix'}: {problem.fix}")
    if not runs:
        raise UserError(f"no run in {results} (no run.json); give a folder that a sweep wrote")
    repairable = any("no repair" not in str(each["fix"]) for each in found if not each["repaired"])
    end = f"; repair with: nanobench doctor --repair {results}" if repairable else ""
    say(f"{len(runs)} runs examined, {len(found)} problems, {len(found) - left} repaired{end}")
    if as_json:
        typer.echo(json.dumps({"runs": len(runs), "problems": found}))
    if left:
        raise typer.Exit(1)
