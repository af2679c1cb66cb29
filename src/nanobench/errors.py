"""The two exceptions that nanobench raises on purpose: one ends the command, the other becomes a row of the results."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """The request was wrong: the command line prints the message as one red line and exits with code 2.

    The message names the value, the valid choices and the fix.
    """


class Skip(Exception):
    """A cell is infeasible: the reason becomes a row with status `skipped`, and the sweep goes on."""


def unknown(kind: str, value: str, choices: Iterable[str], where: str = "", fix: str = "") -> UserError:
    """The one-line error for a name that does not exist; `where` follows the name, `fix` ends the line."""
    available = list(choices)
    close = difflib.get_close_matches(value, available, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return UserError(f"unknown {kind} {value!r}{where}{guess} (available: {', '.join(available)}){fix}")


def cause(error: OSError) -> str:
    """What went wrong with a file, in one line: 'No space left on device (run/raw/01.parquet)'."""
    words = " ".join((error.strerror or str(error)).split())
    return f"{words} ({error.filename})" if error.filename else words


@contextmanager
def writing(path: object, fix: str = "") -> Iterator[None]:
    """Turns a file that cannot be written into a UserError; `fix` ends the line."""
    try:
        yield
    except OSError as error:
        words = cause(error) if str(error.filename) != str(path) else error.strerror
        raise UserError(f"{path} cannot be written: {words}{fix and '; ' + fix}") from error
