"""Lines of text: whole in a pipe, broken between words on a terminal."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from nanobench.views.terminal import broken, say

fixed = settings(derandomize=True, deadline=None, database=None, max_examples=200)
SENTENCE = "cached is faster than uncached at every batch size from 1 to 32: 1.18x [1.17, 1.2] within one process at batch 1"


def printed(line, terminal, width=40):
    console = Console(width=width, file=io.StringIO(), force_terminal=terminal, no_color=True)
    say(console, line)
    return console.file.getvalue()


def test_a_pipe_gets_the_line_as_it_is():
    for line in (SENTENCE, "[bold]no markup[/bold] :smile: " * 9, "a" * 200):
        assert printed(line, terminal=False) == f"{line}\n"


def test_a_terminal_breaks_a_line_between_words_and_no_interval():
    assert printed(SENTENCE, terminal=True, width=60).splitlines() == [
        "cached is faster than uncached at every batch size from 1 to",
        "  32: 1.18x [1.17, 1.2] within one process at batch 1",
    ]
    assert "[1.17, 1.2]" in broken(SENTENCE, 72)
    assert all(len(line) <= 72 for line in broken(SENTENCE, 72).splitlines())


def test_a_command_at_the_end_can_be_copied():
    command = "nanobench kv-sweep --model gpt2-nano --batch 1,8,32 --prompt-len 16 --new-tokens 16"
    *_, last = broken(f"nothing is predicted without a calibration; measure again with one: {command}", 40).splitlines()
    assert last.strip() == command


@pytest.mark.parametrize("line", ["", "short", "  batch 1: NEW is slower", "a/very/long/path/" * 9])
def test_what_fits_or_has_no_space_is_not_broken(line):
    assert broken(line, 40) == line


@fixed
@given(st.lists(st.text("abc[],:-% ", min_size=1, max_size=12), max_size=20), st.integers(20, 90))
def test_no_word_is_lost(words, width):
    line = " ".join(words)
    assert broken(line, width).split() == line.split()
