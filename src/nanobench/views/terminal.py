"""Lines of text on a terminal, in a pipe or in a file. Nothing heavy is imported here, so that --help is quick."""

import re
import textwrap

from rich.console import Console

KEPT = "\0"
"""Stands for a space where no line is broken."""
INTERVAL = re.compile(r"\[[^][]*\]")
INDENT = "  "


def say(console: Console, line: str, style: str | None = None) -> None:
    """Prints a line as it is: no markup, no emoji, no colours for numbers. A terminal breaks it between words and indents the
    rest.
    """
    text = broken(line, console.width) if console.is_terminal else line
    console.print(text, style=style, highlight=False, markup=False, emoji=False, soft_wrap=True)


def broken(line: str, width: int) -> str:
    """A line in lines of a width. Intervals stay whole, and so does a command at the end, so that it can be copied."""
    if len(line) <= width:
        return line
    text, found, command = line.partition(": nanobench ")
    text = INTERVAL.sub(lambda interval: interval[0].replace(" ", KEPT), text)
    text += (found + command).replace(" ", KEPT).replace(KEPT, " ", 1)
    parts = textwrap.wrap(text, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)
    return "\n".join(parts).replace(KEPT, " ")
