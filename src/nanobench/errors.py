"""The two exceptions that nanobench raises on purpose: one ends the command, the other becomes a row of the results."""

import difflib
from collections.abc import Iterable


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
