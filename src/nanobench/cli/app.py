"""The app, its one-line errors, and commands made from option dataclasses."""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from nanobench.errors import UserError
from nanobench.sweep.options import from_toml

INTERRUPTED = 130
# Newer typers carry their own copy of click, older ones use the package: one of their errors leads to the right base.
CLICK_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class OneLineErrors(TyperGroup):
    """Turns every mistake of the user, ours to find or click's, into one red line and exit code 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the command and exits."""
        try:
            refuse_ranks()
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except UserError as error:
            fail(str(error))
        except CLICK_ERROR as error:
            fail(f"{error.format_message()} (nanobench --help lists what there is)")
        except (typer.Abort, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def refuse_ranks() -> None:
    """Raises UserError inside torchrun: every rank would measure for itself, beside the others."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        size = os.environ.get("WORLD_SIZE", "2")
        raise UserError(f"nanobench starts torchrun itself, once a trial: run it by itself, as train-throughput --nproc {size}")


def printer(console: Console) -> Callable[[str], None]:
    """Prints lines of text as they are: no markup, no colours for numbers, no line breaks of our own."""
    return functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)


def fail(message: str) -> NoReturn:
    """One red line on standard error, exit code 2."""
    typer.secho(" ".join(message.split("\n")), fg="red", err=True)
    sys.exit(2)


app = typer.Typer(
    name="nanobench",
    cls=OneLineErrors,
    help="What the KV cache, torch.compile, the sampler and the batch size buy on your GPT, how sure that is, and why.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(kind: Any, name: str) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """A command whose options are the fields of a dataclass; --config FILE stands between the defaults and the arguments."""

    def decorate(function: Callable[[Any], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(context: typer.Context, **arguments: Any) -> None:
            given = {
                key: value for key, value in arguments.items() if not str(context.get_parameter_source(key)).endswith("DEFAULT")
            }
            config = given.pop("config", None)
            function(kind(**{**(from_toml(config, kind, name) if config else {}), **given}))

        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters = [context, *(parameter(field) for field in fields(kind)), config_parameter()]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return app.command(name)(run)

    return decorate


def parameter(field: Any) -> inspect.Parameter:
    """A dataclass field as an option of the command line."""
    flag = "--" + field.name.replace("_", "-")
    help_text = field.metadata["help"]
    metavar = next((word for word in ("LIST", "DIR", "FIELD=LIST") if help_text.startswith(word)), None)
    option = typer.Option(flag, help=help_text, rich_help_panel=field.metadata["panel"], metavar=metavar)
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[field.type, option], default=default
    )


def config_parameter() -> inspect.Parameter:
    """--config FILE."""
    help_text = "TOML file with any of these options; what is also given here wins"
    option = typer.Option("--config", metavar="FILE", help=help_text, rich_help_panel="Output")
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Path | None, option], default=None)


def version(asked: bool) -> None:
    """Prints the version and stops."""
    if asked:
        from nanobench import __version__

        typer.echo(f"nanobench {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    show: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """What the KV cache, torch.compile, the sampler and the batch size buy on your GPT, how sure that is, and why."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def leave(cells: list[dict[str, Any]]) -> None:
    """Exits with 1 where the gate said no."""
    if any(cell["status"] == "wrong" for cell in cells):
        raise typer.Exit(1)


def make_console() -> Console:
    """The terminal as wide as it is; 120 columns for a pipe or a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)
