"""The terminal that everything is printed to."""

from rich.console import Console


def make_console() -> Console:
    """The terminal as wide as it is; 120 columns for a pipe or a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)
