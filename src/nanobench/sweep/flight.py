"""Trials that are measured side by side: threads wait for the workers, and the thread that started them takes the results."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Self, TypeVar

from nanobench.sweep.executors.base import Executor

T = TypeVar("T")
CLOSE_EVERY_S = 0.5
"""A thread that begins another process while its executor is closed loses that one so soon, too."""


class TimeIsUp(Exception):
    """No further launch begins; those that run are finished."""


class Flight:
    """The trials of one round. With room for one there are no threads: it runs when it is started."""

    def __init__(self) -> None:
        self.executor: Executor | None = None
        self.room = 1
        self.pool: ThreadPoolExecutor | None = None
        self.running: dict[Future[Any], Callable[[Any], None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Takes what still runs, unless an error ended the round: then it is ended."""
        try:
            if kind is None or issubclass(kind, TimeIsUp):
                self.land()
        finally:
            self.end()

    def begin(self, executor: Executor, room: int) -> None:
        """Uses an executor, which is closed at the end, for so many trials at once."""
        self.executor, self.room = executor, room
        if room > 1:
            self.pool = ThreadPoolExecutor(room)

    def start(self, work: Callable[[], T], take: Callable[[T], None]) -> None:
        """Starts some work. What it returns is given to `take`, in this thread: at once, or by `wait_for_room` or `land`."""
        if self.pool is None:
            take(work())
        else:
            self.running[self.pool.submit(work)] = take

    def wait_for_room(self) -> None:
        """Waits until another trial can be started. Raises what a trial raised."""
        self.land(self.room - 1)

    def land(self, most: int = 0) -> None:
        """Takes what has ended, and waits until at most so many trials run. Raises what a trial raised."""
        while len(self.running) > most:
            done = wait(self.running, return_when=FIRST_COMPLETED).done
            for each in [each for each in self.running if each in done]:
                self.running.pop(each)(each.result())

    def end(self) -> None:
        """Closes the executor, which ends what still runs, and waits for the threads."""
        if self.executor is not None:
            self.executor.close()
            while wait(self.running, timeout=CLOSE_EVERY_S).not_done:
                self.executor.close()
        if self.pool is not None:
            self.pool.shutdown()
