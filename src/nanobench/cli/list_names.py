"""The command that lists everything that has a name: list."""

import os
from pathlib import Path
from typing import Annotated

import typer

from nanobench import errors, registry
from nanobench.cli.app import simple_command
from nanobench.registry import Member

FAMILIES = {
    "models": "GPTs, for --model",
    "engines": "ways to generate tokens, for --engine",
    "samplers": "ways to choose the next token, for --sampler",
    "optimizers": "optimizers of training, for --optimizer",
    "metrics": "columns that are computed for every cell",
    "plots": "figures, for nanobench plot",
    "executors": "places where trials run, for --executor",
    "configs": "sweeps in TOML files, for nanobench run",
}
"""What can be listed -> what it is."""


@simple_command("list")
def list_names(
    family: Annotated[str | None, typer.Argument(metavar="FAMILY", help=", ".join(FAMILIES), show_default=False)] = None,
) -> None:
    """List models, engines, samplers, ...: a line per member with what it is and where it comes from."""
    if family is None:
        members = [Member(name, what, str(len(members_of(name)))) for name, what in FAMILIES.items()]
    elif family in FAMILIES:
        members = members_of(family)
    else:
        raise errors.unknown("family", family, FAMILIES)
    names, origins = (max((len(column) for column in columns), default=0) for columns in widths(members))
    for member in members:
        typer.echo(f"{member.name:{names}}  {member.origin:{origins}}  {member.what}".rstrip())


def widths(members: list[Member]) -> tuple[list[str], list[str]]:
    """The two columns that are padded."""
    return [member.name for member in members], [member.origin for member in members]


def members_of(family: str) -> list[Member]:
    """The members of a family."""
    if family == "metrics":
        return metrics()
    if family == "plots":
        return plots()
    return configs() if family == "configs" else registry.members(family)


def metrics() -> list[Member]:
    """The computed columns with their units and formulas."""
    from nanobench.results import derive

    own = [Member(metric.name, f"{metric.unit:7} {metric.formula}") for metric in derive.METRICS]
    others = ((each.metric, each.origin) for each in derive.plug_ins())
    return [*own, *(Member(metric.name, f"{metric.unit:7} {metric.formula}", origin) for metric, origin in others)]


def plots() -> list[Member]:
    """The figures."""
    from nanobench.views import plots

    own = [Member(name, plots.about(name)) for name in plots.PLOTS]
    return [*own, *(Member(name, plots.about(name), each.origin) for name, each in plots.plug_ins().items())]


def configs() -> list[Member]:
    """The config files of the current folder, with their first comment."""
    paths = sorted(Path("configs").glob("*.toml"))
    return [Member(path.stem, comment(path.read_text()), f"configs{os.sep}") for path in paths]


def comment(text: str) -> str:
    """The comment lines at the top of a config file, as one line."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)
