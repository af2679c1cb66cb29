"""The largest batch that fits, and the one after which throughput stops growing: a search that tries each in a process.

It doubles the batch until one finds no memory, then halves what is between. Every try takes full steps, or calls, of the
arms as they will be measured: compiled, with the optimizer in, side by side. Out-of-memory ends a try, any other error the
search.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanobench import registry
from nanobench.errors import UserError
from nanobench.records import Description, Status
from nanobench.schema import PROTOCOL, Arm, Point, Trial
from nanobench.stats.knee import knee
from nanobench.sweep import device_lock, user_cache
from nanobench.sweep.executors.base import Executor
from nanobench.sweep.options import Options, read_memory_limit
from nanobench.sweep.session import first_workers

if TYPE_CHECKING:
    from nanobench.sweep.plan import FindBatch

MARGIN = 0.85
"""Share of the largest batch that fits which is recommended: memory in use elsewhere, and fragments, vary."""
MOST = 4096
"""The largest batch that is tried where nothing runs out."""
NEAR = 16
"""The search ends where the smallest batch that failed is within this part of the largest that fits."""
Row = dict[str, Any]


@dataclass(frozen=True)
class SearchConfig:
    """What a batch is looked for by."""

    margin: float = MARGIN
    total_batch: int | None = None
    """rows of an optimizer step over all ranks, which the batch must divide; None for any batch"""
    most: int = MOST
    max_seconds: float = 600.0
    """no try begins later than this"""

    def fitting(self, batch_size: int, ranks: int) -> int:
        """The largest batch not above this one that may be used; 0 where there is none."""
        if self.total_batch is None:
            return batch_size
        return max((n for n in range(1, batch_size + 1) if self.total_batch % (n * ranks) == 0), default=0)


@dataclass(frozen=True)
class BatchTrial:
    """What became of one batch size."""

    batch_size: int
    tok_s: float | None
    """None where it found no memory"""
    peak_bytes: int | None = None
    reason: str | None = None


class Search:
    """Tries batch sizes and remembers what became of them."""

    def __init__(
        self,
        measure: Callable[[int], BatchTrial],
        config: SearchConfig,
        ranks: int = 1,
        tell: Callable[[BatchTrial], None] = lambda t: None,
    ):
        self.measure, self.config, self.ranks, self.tell = measure, config, ranks, tell
        self.trials: dict[int, BatchTrial] = {}
        self.failed_again: set[int] = set()
        self.begun = time.monotonic()

    def fits(self, batch_size: int) -> bool:
        """Whether a batch of this size finds its memory, the last time that it was tried."""
        if batch_size not in self.trials:
            self.run_trial(batch_size)
        return self.trials[batch_size].tok_s is not None

    def run_trial(self, batch_size: int) -> None:
        """Tries a batch size. One that fails for the second time has failed for good."""
        had_failed = batch_size in self.trials
        self.trials[batch_size] = self.measure(batch_size)
        if had_failed and not self.fits(batch_size):
            self.failed_again.add(batch_size)
        self.tell(self.trials[batch_size])

    @property
    def timed_out(self) -> bool:
        """Whether time is up."""
        return bool(self.trials) and time.monotonic() - self.begun >= self.config.max_seconds

    def run(self) -> Row:
        """The answer. Raises UserError where not even the smallest batch fits."""
        while not self.timed_out and (batch_size := self.next_batch()):
            self.run_trial(batch_size)
        low, high = self.bounds()
        if not low:
            raise UserError(self.too_big())
        return self.answer(low, high)

    def bounds(self) -> tuple[int, int | None]:
        """The largest batch that fits, 0 where none was found, and the smallest above it that failed."""
        low = max((n for n in self.trials if self.fits(n)), default=0)
        return low, min((n for n in self.trials if n > low), default=None)

    def next_batch(self) -> int | None:
        """The next of 1, 2, 4, ... until one fails, then the middle of what is between; at last the one that failed once more,
        as fragments of memory are chance. None where the search has ended.
        """
        low, high = self.bounds()
        if high is None:
            return next((n for n in self.doubling() if n > low), None)
        middle = self.usable((low + high) // 2)
        if high - low > max(1, low // NEAR) and middle > low:
            return middle
        return None if high in self.failed_again else high

    def doubling(self) -> Iterator[int]:
        """1, 2, 4, ..., up to the largest that is asked for, each made one that may be used."""
        batch_size = 1
        while batch_size < self.config.most:
            yield self.usable(batch_size)
            batch_size *= 2
        yield self.usable(self.config.most)

    def usable(self, batch_size: int) -> int:
        """See SearchConfig.fitting."""
        return self.config.fitting(batch_size, self.ranks)

    def too_big(self) -> str:
        """Why there is no answer."""
        failed = next(iter(self.trials.values()), None)
        if failed is None:
            total, ranks = self.config.total_batch, self.ranks
            return f"--total-batch {total} cannot be divided among {ranks} ranks; give a multiple of {ranks}"
        return f"batch {failed.batch_size} finds no memory ({failed.reason}); give more --memory-limit, or a smaller model"

    def answer(self, largest: int, failed: int | None) -> Row:
        """What fits, what is recommended of it, and where throughput stops growing."""
        bounded_by = "time" if self.next_batch() else "memory" if failed is not None else "--most"
        batch_size = max(self.usable(max(1, int(self.config.margin * largest))), min(self.trials))
        if not self.fits(batch_size):
            batch_size = max(n for n, each in self.trials.items() if each.tok_s is not None and n < batch_size)
        curve = [self.trials[n] for n in sorted(self.trials) if self.trials[n].tok_s is not None]
        rates = {each.batch_size: each.tok_s for each in curve if each.tok_s is not None and each.batch_size <= batch_size}
        total = self.config.total_batch
        return {
            "batch_size": batch_size,
            "knee_batch_size": knee(rates),
            "largest_batch_size": largest,
            "failed_batch_size": failed,
            "failed_reason": None if failed is None else self.trials[failed].reason,
            "bounded_by": bounded_by,
            "grad_accum": None if total is None else total // (batch_size * self.ranks),
            "margin": self.config.margin,
            "curve": [{name: value for name, value in asdict(each).items() if name != "reason"} for each in curve],
            "seconds": time.monotonic() - self.begun,
        }


def run_trial_in(executor: Executor, trial: Trial, folder: Path, timeout_s: float) -> Callable[[int], BatchTrial]:
    """Tries a batch size of a trial's point in a process of its own. Raises UserError for whatever is not out-of-memory."""

    def measure(batch_size: int) -> BatchTrial:
        # The longest conversation fills its row: what is padded to the longest may need as much as what is padded in full.
        phase = trial.point.phase.replace("sft-dynamic", "sft-padded")
        sized = replace(trial, point=replace(trial.point, batch_size=batch_size, phase=phase))
        log = folder / "autobatch.log"
        result = executor.run(
            {"batch_trial": asdict(sized)}, folder / f"batch-{batch_size}", log, timeout_s, lambda report: None
        )
        if result.record is None:
            # Whom the kernel's out-of-memory killer takes can leave no record.
            if result.killed or result.status is Status.OOM:
                return BatchTrial(batch_size, None, reason=result.reason)
            raise UserError(f"batch {batch_size}: {result.reason}")
        found = result.record
        if found["status"] == Status.OK:
            return BatchTrial(batch_size, found["tok_s"], found["peak_bytes"])
        if found["status"] == Status.OOM:
            return BatchTrial(batch_size, None, reason=found["reason"])
        raise UserError(f"batch {batch_size}: {found['reason']}")

    return measure


def file_of(point: Point, arms: tuple[Arm, ...], config: SearchConfig, limit: str) -> Path:
    """Where an answer is kept: by model, dtype, optimizer, compile modes, lengths, device, memory, versions and margin."""
    asked = {name: value for name, value in asdict(point).items() if name != "batch_size"}
    facts = {"point": asked, "arms": [asdict(arm) for arm in arms], "wish": asdict(config), "limit": limit}
    known = {**facts, "model": registry.source("models", point.model), "machine": machine_of(point.device)}
    name = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    return user_cache.folder() / f"autobatch-{PROTOCOL}-{name}.json"


def machine_of(device: str) -> Row:
    """Memory and versions, told without torch."""
    facts: Row = {
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cores": os.cpu_count(),
    }
    return facts if device == "cpu" else {**facts, "gpu": device_lock.gpu_of(device)}


def ignore(*_: Any) -> None:
    """Does nothing."""


@dataclass(frozen=True)
class Listener:
    """Who is told how a search goes."""

    searching: Callable[[str], None] = ignore
    """a search begins: a line that names the model and the arms"""
    tried: Callable[[BatchTrial], None] = ignore
    found: Callable[[Row, str], None] = ignore
    """the answer, and the labels of the arms"""


def search(
    point: Point,
    arms: tuple[Arm, ...],
    config: SearchConfig,
    asked: Options,
    executor: Executor,
    description: Description,
    listener: Listener,
) -> Row:
    """Tries batch sizes of some arms at a point, each in a process."""
    available = description.available_bytes if point.device == "cpu" else None
    limit = read_memory_limit(asked.memory_limit, available)
    trial = Trial(point=point, arms=arms, launch=1, seed=asked.seed, target_ci=1.0, max_seconds=1.0, memory_limit_bytes=limit)
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        measure = run_trial_in(executor, trial, Path(folder), asked.timeout)
        found = Search(measure, config, point.world_size, listener.tried).run()
    return {**found, "memory_limit_bytes": limit, "cached": False}


def finder(options: Options, listener: Listener) -> "Callable[[Description], FindBatch]":
    """Finds the batch size that all arms of a point have memory for together, as they are measured in turns."""

    def of(description: Description) -> "FindBatch":
        def find(point: Point, arms: tuple[Arm, ...]) -> int:
            config = SearchConfig(max_seconds=SearchConfig.max_seconds * len(arms))
            path = file_of(point, arms, config, options.memory_limit)
            found = user_cache.read(path)
            if found is None:
                labels = ", ".join(arm.label for arm in arms)
                listener.searching(f"looking for the batch size of {point.model}, {labels}")
                # Not the sweep's workers: what these compiled must not be found by the sweep's cold start.
                with first_workers(options) as own:
                    found = search(replace(point, batch_size=1), arms, config, options, own, description, listener)
                user_cache.write(path, found)
                listener.found(found, labels)
            return int(found["batch_size"])

        return find

    return of
