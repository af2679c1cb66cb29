"""The app, its groups of commands, its one-line errors, and commands made from option dataclasses."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from nanobench.errors import UserError, cause
from nanobench.sweep.config_file import from_toml
from nanobench.views.terminal import say

INTERRUPTED = 130
MOST_CHARACTERS = 2000
GROUPS = {
    "Measure": ("kv-sweep", "train-throughput", "ab", "bisect", "tune", "autobatch", "verify", "sample", "run"),
    "Understand": ("explain", "predict", "compare", "history", "cost", "plot", "report", "export", "kv-dashboard"),
    "Trust": ("selftest", "audit", "env", "calibrate"),
    "Manage": ("list", "doctor"),
}
"""Panel of --help -> its commands, in the order of the help."""
HELP = """How much do the KV cache, torch.compile, the sampler and the batch size speed up your small GPT on your hardware,
and with what uncertainty?"""
# Newer typers carry their own copy of click, older ones use the package: the base class of one error is right for both.
CLICK_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document as the last line")]


class CommandGroup(TyperGroup):
    """Lists the commands by group, and turns every mistake of the user into one red line and exit code 2."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order of GROUPS."""
        return [name for names in GROUPS.values() for name in names]

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the command and exits."""
        try:
            refuse_ranks()
            refuse_undecodable(kwargs.get("args") or (args[0] if args else None) or sys.argv[1:])
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except UserError as error:
            fail(str(error))
        except OSError as error:
            fail(cause(error))
        except CLICK_ERROR as error:
            fail(f"{error.format_message()} ({usage(error)})")
        except (typer.Abort, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def usage(error: Any) -> str:
    """Where the help for an error of click is: at the command that was called, or at nanobench."""
    context = getattr(error, "ctx", None)
    command = f" {context.info_name}" if context is not None and context.parent is not None else ""
    return f"run nanobench{command} --help for usage"


def refuse_ranks() -> None:
    """Raises UserError inside torchrun, where every rank would run its own benchmark beside the others."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        size = os.environ.get("WORLD_SIZE", "2")
        raise UserError(f"nanobench starts torchrun itself, once per trial; run it without: train-throughput --nproc {size}")


def refuse_undecodable(words: Iterable[str]) -> None:
    """Raises UserError for an argument that is not UTF-8: it could be neither printed nor stored."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(f"argument {word!a} is not UTF-8; give names and paths in UTF-8") from None


def printer(console: Console) -> Callable[[str], None]:
    """Prints lines of text as `say` does."""
    return functools.partial(say, console)


def announce_worker(console: Console) -> None:
    """Prints on a terminal that a worker starts: until it has loaded torch, nothing else appears."""
    if console.is_terminal:
        console.print("starting a worker, which loads torch; this takes some seconds", style="dim")


def fail(message: str) -> NoReturn:
    """One red line on standard error, exit code 2. A message that repeats thousands of characters of an argument is cut."""
    line = " ".join(message.splitlines())
    if len(line) > MOST_CHARACTERS:
        line = f"{line[: MOST_CHARACTERS // 2]} ... {line[-MOST_CHARACTERS // 2 :]}"
    typer.secho(line, fg="red", err=True)
    sys.exit(2)


app = typer.Typer(
    name="nanobench",
    cls=CommandGroup,
    help=HELP,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def simple_command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose options are the parameters of the function."""
    group = next(group for group, names in GROUPS.items() if name in names)
    return app.command(name, rich_help_panel=group)


def command(kind: Any, name: str, config: bool = True) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """A command whose options are the fields of a dataclass.

    With `config` it also takes --config FILE, whose values stand between the defaults and the command line.
    """

    def decorate(function: Callable[[Any], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(context: typer.Context, **arguments: Any) -> None:
            given = {
                key: value for key, value in arguments.items() if not str(context.get_parameter_source(key)).endswith("DEFAULT")
            }
            path = given.pop("config", None)
            function(kind(**{**(from_toml(path, kind, name) if path else {}), **given}))

        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters = [context, *(parameter(field) for field in fields(kind)), *([config_parameter()] if config else [])]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return simple_command(name)(run)

    return decorate


def parameter(field: Field[Any]) -> inspect.Parameter:
    """A dataclass field as an option or an argument of the command line."""
    declared = field.metadata
    shared = {"help": declared["help"], "metavar": declared["metavar"]}
    if declared.get("positional"):
        kind = typer.Argument(**shared, show_default=False)
    else:
        kind = typer.Option("--" + field.name.replace("_", "-"), **shared, rich_help_panel=declared["panel"])
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[field.type, kind], default=default
    )


def config_parameter() -> inspect.Parameter:
    """--config FILE."""
    help_text = "TOML file with any of these options; the command line takes precedence"
    option = typer.Option("--config", metavar="FILE", help=help_text, rich_help_panel="Output")
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Path | None, option], default=None)


def version(requested: bool) -> None:
    """Prints the version and stops."""
    if requested:
        from nanobench import __version__

        typer.echo(f"nanobench {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, help=HELP)
def main(
    context: typer.Context,
    show: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Prints the help where no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def exit_if_wrong(cells: Iterable[Mapping[str, Any]]) -> None:
    """Exits with 1 where an arm failed its gate."""
    if any(cell["status"] == "wrong" for cell in cells):
        raise typer.Exit(1)


def make_console() -> Console:
    """The terminal in its own width; 120 columns for a pipe or a file. Square brackets and colons in names are no markup."""
    console = functools.partial(Console, highlight=False, markup=False, emoji=False)
    return console() if console().is_terminal else console(width=120)
