"""How a run was requested: its command line, and the commands that continue it or measure the same again."""

import shlex
from collections.abc import Iterator, Mapping

SWEEPS = ("kv-sweep", "train-throughput")
"""Commands with --resume and --calibration."""
POSITIONAL = {"ab": ("base", "new")}
"""Command -> the options that are written without their names."""
OF_ONE_RUN = ("out", "resume", "dry_run", "yes", "wait", "no_plot", "quiet", "json")
"""Options that change nothing of what is measured."""


def command_line(command: str, requested: Mapping[str, object]) -> str:
    """The command that requests this."""
    positional = POSITIONAL.get(command, ())
    parts = ["nanobench", command, *(word for name in positional for word in words(requested.get(name, "")))]
    for name, value in requested.items():
        if name not in positional:
            flag = "--" + name.replace("_", "-")
            parts += [flag] if value is True else [part for word in words(value) for part in (flag, word)]
    return " ".join(parts)


def words(value: object) -> Iterator[str]:
    """The values of an option, each as a word of a shell."""
    for each in value if isinstance(value, list) else [value]:
        yield shlex.quote(str(each))


def again(command: str, requested: Mapping[str, object]) -> str:
    """The command that measures the same again, as a new run."""
    return command_line(command, {name: value for name, value in requested.items() if name not in OF_ONE_RUN})


def with_calibration(command: str, requested: Mapping[str, object]) -> str:
    """The command that measures the same again and with a calibration. Empty if the command never has one."""
    return again(command, {**requested, "calibration": "auto"}) if command in SWEEPS else ""


def resumed(command: str, place: str) -> str:
    """The command that continues the run at a place. Empty if the command can't continue a run."""
    return f"nanobench {command} --resume {shlex.quote(place)}" if command in SWEEPS else ""
