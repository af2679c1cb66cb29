"""The two exceptions that nanobench raises on purpose: one stops the request, the other becomes a row."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The request was wrong: the CLI prints the message as one red line and exits with 2.

    The message names the value, the valid choices and the mend.
    """


class Skip(Exception):
    """A cell is infeasible: the reason becomes a row with status `skipped`, and the sweep goes on."""


def unknown(kind: str, value: str, choices: Iterable[str], mend: str = "") -> UserError:
    """The one-line answer to a name that nobody has."""
    known = list(choices)
    close = difflib.get_close_matches(value, known, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return UserError(f"no {kind} is called {value!r}{guess} (known: {', '.join(known)}){mend}")
