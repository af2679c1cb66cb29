"""Trials that are measured side by side: threads wait for the workers, and the thread that started them takes the results."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from nanobench.schema import Point, Trial
from nanobench.sweep.executors.base import Executor

T = TypeVar("T")
CLOSE_EVERY_S = 0.5
"""A thread that begins another process while its executor is closed loses that one so soon, too."""
MOST_THREADS = 10_000
"""Threads are made as they are needed."""


class TimeIsUp(Exception):
    """No further launch begins; those that run are finished."""


class Running(NamedTuple):
    """A trial that runs."""

    point: Point
    take: Callable[[Any], None]
    """gets what it returns"""


class Flight:
    """The trials of a sweep that run now. With room for one there are no threads: a trial runs when it is started."""

    def __init__(self) -> None:
        self.executor: Executor | None = None
        self.room = 1
        self.pool: ThreadPoolExecutor | None = None
        self.running: dict[Future[Any], Running] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Takes what still runs, unless an error ended the sweep: then it is ended."""
        try:
            if kind is None or issubclass(kind, TimeIsUp):
                self.land()
            else:
                self.take_finished()
        finally:
            self.end()

    def begin(self, executor: Executor, room: int) -> None:
        """Uses an executor, which is closed at the end, for so many trials at once."""
        self.executor, self.room = executor, room
        if room > 1 and self.pool is None:
            self.pool = ThreadPoolExecutor(MOST_THREADS)
        self.wait_for_room()

    def in_turn(self, trials: Iterable[Trial]) -> Iterator[Trial]:
        """The trials in their order, but none while another one of its point runs: it comes as soon as that has ended."""
        waiting: list[Trial] = []
        for trial in trials:
            waiting.append(trial)
            yield from self.free(waiting)
            while len(waiting) >= self.room:
                self.land_one()
                yield from self.free(waiting)
        while waiting:
            self.land_one()
            yield from self.free(waiting)

    def free(self, waiting: list[Trial]) -> Iterator[Trial]:
        """Takes those trials out of a list whose points have no trial that runs."""
        for trial in list(waiting):
            if trial.point not in {each.point for each in self.running.values()}:
                waiting.remove(trial)
                yield trial

    def start(self, trial: Trial, work: Callable[[], T], take: Callable[[T], None]) -> None:
        """Starts the work of a trial. What it returns is given to `take`, in this thread: at once, or by `wait_for_room` or
        `land`.
        """
        if self.pool is None or self.room == 1:
            take(work())
        else:
            self.running[self.pool.submit(work)] = Running(trial.point, take)

    def wait_for_room(self) -> None:
        """Waits until another trial can be started. Raises what a trial raised."""
        self.land(self.room - 1)

    def land_one(self) -> None:
        """Waits until one of the trials that run has ended, and takes what has ended."""
        self.land(max(0, len(self.running) - 1))

    def land(self, most: int = 0) -> None:
        """Takes what has ended, and waits until at most so many trials run. Raises what a trial raised."""
        while len(self.running) > most:
            done = wait(self.running, return_when=FIRST_COMPLETED).done
            for each in [each for each in self.running if each in done]:
                self.running.pop(each).take(each.result())

    def take_finished(self) -> None:
        """Takes the results that are there already; what was raised is left."""
        for each in [each for each in self.running if each.done() and each.exception() is None]:
            self.running.pop(each).take(each.result())

    def end(self) -> None:
        """Closes the executor, which ends what still runs, and waits for the threads."""
        if self.executor is not None:
            self.executor.close()
            while wait(self.running, timeout=CLOSE_EVERY_S).not_done:
                self.executor.close()
        if self.pool is not None:
            self.pool.shutdown()
