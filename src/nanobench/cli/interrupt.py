"""Ctrl-C and SIGTERM while something is measured: what is saved is reported, and the exit code is 130."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING

from nanobench.cli.app import INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console

    from nanobench.sweep.runner import Progress, Watch


@contextmanager
def interruptible(report: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """On Ctrl-C or SIGTERM calls `report`, and exits with 130.

    A KeyboardInterrupt that is raised in a callback gets lost. The function that this yields raises it again.
    """
    pressed: list[int] = []

    def press(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    def check_interrupt() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check_interrupt
    except KeyboardInterrupt:
        report()
        sys.exit(INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def watched(console: "Console", report: Callable[[], None], quiet: bool = False) -> Iterator["Watch"]:
    """Shows a measurement on the terminal while it can be interrupted; nothing if `quiet`."""
    from nanobench.views.progress import Screen

    with interruptible(report) as check_interrupt, nullcontext() if quiet else Screen(console) as screen:

        def watch(seen: "Progress") -> None:
            check_interrupt()
            if screen:
                screen.show(seen)

        yield watch
