"""How long does a sweep take on many devices, compared with the ideal? The real control process, devices on a virtual clock.

    python tests/bench/makespan.py DIR [DEVICES] [POINTS] [LAUNCHES] [SEED]    (64 devices, 1,000 points, 5 launches)

A trial takes no time here: the clock jumps to its end, unless the control process has worked for longer. The time of a trial
depends on its point (15 to 60 s, evenly in the logarithm) and varies by 5 %; 1 % of the trials take three times as long (a slow
node), and 2 % are lost at a random moment and sent again. The ideal is the total time of all devices, lost time included,
divided by their number. Prints both, what the control process needed, and what the same trials would take if each round waited
for the last trial of the round before.
"""

import heapq
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import scripted_sweep
from nanobench.results import store
from nanobench.schema import Trial
from nanobench.sweep import flight, runner
from nanobench.sweep.executors import _node as node
from nanobench.sweep.executors.base import WorkerResult

SHORTEST_S, LONGEST_S, SPREAD = 15.0, 60.0, 0.05
SLOW, SLOWER = 0.01, 3.0
LOST = 0.02


class Clock:
    """Real time, without that of workers, plus what was skipped while nothing was to be done. Stands for a pool of threads."""

    def __init__(self, devices: "Devices") -> None:
        self.devices, self.skipped_s, self.ends = devices, 0.0, dict[Future[Any], float]()

    def now(self) -> float:
        """Seconds."""
        return time.monotonic() + self.skipped_s

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """The answer of a trial, which is there when the clock comes to its end."""
        begun, future = time.monotonic(), Future[Any]()
        future.set_result(work())
        self.skipped_s -= time.monotonic() - begun
        self.ends[future] = self.now() + self.devices.last_s
        return future

    def wait(self, futures: Collection[Future[Any]], **how: Any) -> SimpleNamespace:
        """Skips to the first end."""
        if futures:
            self.skipped_s += max(0.0, min(self.ends[each] for each in futures) - self.now())
        done = {each for each in futures if self.ends[each] <= self.now()}
        return SimpleNamespace(done=done, not_done=set(futures) - done)

    def shutdown(self) -> None:
        """See ThreadPoolExecutor.shutdown."""


class Devices(scripted_sweep.Script):
    """Meets Executor: so many trials at once."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.losses, self.last_s = count, seed, 0, 0.0
        self.took_s: dict[int, list[float]] = defaultdict(list)
        """launch -> what each of its trials took, lost attempts included"""

    def at_once(self, device: str) -> int:
        """See base.at_once."""
        return self.count

    def run(self, request: dict[str, Any], folder: Path, log: Path, timeout_s: float, progress: Any) -> WorkerResult:
        """See Executor.run. Leaves the time of the trial in `last_s`."""
        trial, attempts, self.last_s = Trial.from_json(request["trial"]), iter(range(100)), 0.0
        answer = node.with_retries(lambda: self.attempt(trial, next(attempts)), 3, log)
        self.took_s[trial.launch].append(self.last_s)
        return answer

    def attempt(self, trial: Trial, number: int) -> WorkerResult:
        """One attempt. Raises Lost."""
        drawn = random.Random(f"{self.seed} {trial.key} {number}")
        lost, share, seconds = drawn.random() < LOST, drawn.random(), self.seconds(trial, drawn)
        self.last_s += seconds * (share if lost else 1.0)
        if lost:
            self.losses += 1
            raise node.Lost("a device failed")
        return WorkerResult({"arms": [self.record(trial, arm) for arm in trial.arms]})

    def seconds(self, trial: Trial, drawn: random.Random) -> float:
        """What an attempt takes."""
        of_point = random.Random(f"{self.seed} {trial.point}").random()
        slower = SLOWER if drawn.random() < SLOW else 1.0
        return SHORTEST_S * (LONGEST_S / SHORTEST_S) ** of_point * drawn.gauss(1.0, SPREAD) * slower


def listed(seconds: list[float], count: int) -> float:
    """The makespan of trials that are given to the next free device, in this order."""
    ends = [0.0] * count
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def main() -> None:
    """Prints a line per figure."""
    folder = Path(sys.argv[1]).resolve()
    count, points, launches, seed = (int(text) for text in [*sys.argv[2:], *("64", "1000", "5", "1")[len(sys.argv) - 2 :]])
    folder.mkdir(parents=True)
    planned, devices = scripted_sweep.plan(range(1, points + 1), launches), Devices(count, seed)
    clock, trials = Clock(devices), points * launches
    flight.ThreadPoolExecutor, flight.wait = lambda most: clock, clock.wait  # type: ignore[assignment,misc]
    runner.time = SimpleNamespace(monotonic=clock.now)  # type: ignore[assignment]
    begun, used = clock.now(), time.process_time()
    scripted_sweep.sweep(folder / "run", planned, lambda: devices)
    took, used, last = clock.now() - begun, time.process_time() - used, max(clock.ends.values()) - begun
    busy, waiting = sum(map(sum, devices.took_s.values())), sum(listed(each, count) for each in devices.took_s.values())
    print(f"{trials:,} trials on {count} devices, {devices.losses} lost and sent again")
    print(f"makespan {took:.0f} s, ideal {busy / count:.0f} s: {took * count / busy:.3f} times the ideal")
    print(f"until the last trial ends: {last * count / busy:.3f}; with a wait after each round: {waiting * count / busy:.3f}")
    print(f"control process: {1e3 * used / trials:.1f} ms of processor time per trial")
    seen = [(each.point, each.launch, each.arm) for each in store.Run(folder / "run").read_raw()]
    assert len(seen) == len(set(seen)) == 2 * trials, f"{len(seen)} launches of arms, {len(set(seen))} different"


if __name__ == "__main__":
    main()
