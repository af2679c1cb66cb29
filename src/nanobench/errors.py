"""The two exceptions that nanobench raises on purpose: one stops the request, the other becomes a row."""


class UserError(Exception):
    """The request was wrong: the CLI prints the message as one red line and exits with 2.

    The message names the value, the valid choices and the mend.
    """


class Skip(Exception):
    """A cell is infeasible: the reason becomes a row with status `skipped`, and the sweep goes on."""
