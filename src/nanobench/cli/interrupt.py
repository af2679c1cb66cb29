"""Ctrl-C and SIGTERM while something is measured: what is saved is reported, and the exit code is 130."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING

from nanobench.cli.app import INTERRUPTED
from nanobench.views.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

    from nanobench.sweep.progress import Progress, Watch

FINISHING = "finishing this launch, so that it is not lost; Ctrl-C again stops at once"


class Interrupts:
    """Counts signals. The first Ctrl-C waits for the end of the launch, if `say` can tell that; all others stop at once."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.say = say
        self.pressed = self.must_stop = False

    def press(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. Raises KeyboardInterrupt where the work stops at once."""
        self.must_stop = self.pressed or self.say is None or number != signal.SIGINT
        self.pressed = True
        if self.must_stop:
            raise KeyboardInterrupt
        if self.say:
            self.say(FINISHING)

    def check(self, is_end: bool) -> None:
        """Raises KeyboardInterrupt again, because one that is raised in a callback gets lost; and at the end of a launch."""
        if self.must_stop or (self.pressed and is_end):
            raise KeyboardInterrupt


@contextmanager
def interruptible(report: Callable[[], None], interrupts: Interrupts) -> Iterator[None]:
    """On Ctrl-C or SIGTERM calls `report`, and exits with 130."""
    before = {number: signal.signal(number, interrupts.press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
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

    interrupts = Interrupts(lambda line: say(console, line))
    with interruptible(report, interrupts), nullcontext() if quiet else Screen(console) as screen:

        def watch(seen: "Progress") -> None:
            interrupts.check(is_end=False)
            if screen:
                screen.show(seen)
            interrupts.check(is_end=seen.report is None)

        yield watch
