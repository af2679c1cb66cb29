"""The command that runs a config file: run."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from nanobench import errors
from nanobench.cli.app import simple_command
from nanobench.cli.sweep import kv_sweep, train_throughput
from nanobench.cli.verify import VerifyOptions, verify
from nanobench.errors import UserError
from nanobench.sweep.config_file import from_toml, read_toml
from nanobench.sweep.options import Options, SweepOptions, TrainOptions, help_of


class Runnable(NamedTuple):
    """A command that a config file can name."""

    options: type[Options]
    command: Any


COMMANDS = {
    "kv-sweep": Runnable(SweepOptions, kv_sweep),
    "train-throughput": Runnable(TrainOptions, train_throughput),
    "verify": Runnable(VerifyOptions, verify),
}


@simple_command("run")
def run_config(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="a TOML file, or the name of one in configs/")],
    out: Annotated[str, typer.Option(metavar="DIR", help="folder of this run; default: a new one in results/")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
    yes: Annotated[bool, typer.Option("--yes", help=help_of(Options, "yes"))] = False,
) -> None:
    """Run the sweep that a TOML file describes."""
    path = config_path(config)
    name = str(read_toml(path).get("command", "kv-sweep"))
    if name not in COMMANDS:
        raise errors.unknown("command", name, COMMANDS, where=f" in {path}")
    kind, function = COMMANDS[name]
    kept = {key: value for key, value in (("out", out), ("dry_run", dry_run)) if value}
    if kept and kind is VerifyOptions:
        raise UserError(f"--{next(iter(kept)).replace('_', '-')} is not for {name}, which keeps no results; remove it")
    confirmed = {"yes": True} if yes else {}
    function.__wrapped__(kind(**{**from_toml(path, kind, name), **kept, **confirmed}))


def config_path(config: str) -> Path:
    """The file that CONFIG names: a path, or a name in configs/."""
    named = Path("configs") / f"{config}.toml"
    return named if named.exists() and not Path(config).exists() else Path(config)
