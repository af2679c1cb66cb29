"""What does a trial cost beyond its worker's own time? Trials through the local executor, whose workers answer at once.

    python tests/bench/trial_overhead.py DIR [TRIALS] [ISOLATION]    (200 trials; forkserver)

The worker is tests/fake_worker.py, which loads no torch: what is left are the request, the pipe, the fork, the answer, the raw
file and the journal. Prints the time per trial, and its share that the control process worked. The answer's record is that of
scripted_sweep.
"""

import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import scripted_sweep
from nanobench.schema import Trial
from nanobench.sweep.executors import local
from nanobench.sweep.executors.base import Interpreter, WorkerResult
from nanobench.sweep.progress import Progress


class Through(scripted_sweep.Script):
    """Sends each trial to a worker."""

    def __init__(self, executor: local.Local) -> None:
        self.executor = executor

    def run(self, request: dict[str, Any], folder: Path, log: Path, timeout_s: float, progress: Any) -> WorkerResult:
        """See Executor.run."""
        answer = self.executor.run({**request, "play": {"do": "answer"}}, folder, log, timeout_s, progress)
        assert answer.record, answer
        trial = Trial.from_json(request["trial"])
        return WorkerResult({"arms": [self.record(trial, arm) for arm in trial.arms]})

    def close(self) -> None:
        """See Executor.close."""
        self.executor.close()


def main() -> None:
    """Prints two lines."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True)
    count, isolation = int((sys.argv[2:] or ["200"])[0]), (sys.argv[3:] or ["forkserver"])[0]
    worker = folder / "worker"
    worker.write_text(f"#!{sys.executable}\n" + (Path(__file__).parents[1] / "fake_worker.py").read_text())
    worker.chmod(0o700)
    executor = local.Local(isolation, 0, folder / "cache", Interpreter(str(worker)))
    ends = [time.monotonic()]

    def watch(progress: Progress) -> None:
        if progress.report is None:
            ends.append(time.monotonic())

    used = time.process_time()
    scripted_sweep.sweep(folder / "run", scripted_sweep.plan(range(1, count // 5 + 1), 5), lambda: Through(executor), watch)
    used = time.process_time() - used
    each = [1e3 * (end - begin) for begin, end in pairwise(ends[1:])]
    late = sorted(each)[len(each) * 95 // 100]
    print(f"{len(each) + 1} trials, {isolation}: median {statistics.median(each):.1f} ms, 95th percentile {late:.1f} ms")
    print(f"control process: {1e3 * used / len(ends[1:]):.1f} ms of processor time per trial, with the cells at the end")


if __name__ == "__main__":
    main()
