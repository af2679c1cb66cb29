"""Signals while something is measured: the first Ctrl-C waits for the launch, everything else stops at once."""

import signal

import pytest

from nanobench.cli import interrupt
from nanobench.cli.interrupt import FINISHING, Interrupts


@pytest.fixture
def said():
    return []


def test_the_first_control_c_waits_for_the_end_of_the_launch(said):
    interrupts = Interrupts(said.append)
    interrupts.check(is_end=True)
    interrupts.press(signal.SIGINT, None)
    assert said == [FINISHING]
    interrupts.check(is_end=False)
    with pytest.raises(KeyboardInterrupt):
        interrupts.check(is_end=True)


def test_the_second_stops_at_once_and_again_if_that_was_lost(said):
    interrupts = Interrupts(said.append)
    interrupts.press(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        interrupts.press(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        interrupts.check(is_end=False)
    assert said == [FINISHING]


def test_sigterm_stops_at_once(said):
    with pytest.raises(KeyboardInterrupt):
        Interrupts(said.append).press(signal.SIGTERM, None)
    assert said == []


def test_where_nobody_can_be_told_control_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt):
        Interrupts().press(signal.SIGINT, None)


def test_the_report_is_made_once_the_exit_code_is_130_and_the_handlers_are_as_before(said):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended, interrupt.interruptible(lambda: said.append("report"), Interrupts()):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 130
    assert said == ["report"]
    assert signal.getsignal(signal.SIGINT) is before
