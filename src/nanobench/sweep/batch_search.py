"""The search for a batch size: the largest batch that fits, and the smallest that saturates throughput.

Memory is nearly linear in the batch, so three small batches and the memory limit predict the largest that fits. That one is
tried, and then its neighbours. Where the three are not on a line (a small batch may need less than what comes before it), the
line is not used far beyond them. Without a known limit, the batch is doubled until one runs out of memory, and then the
range between the largest that fits and the smallest that failed is halved. How a batch size is tried is up to the caller.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nanobench.errors import UserError
from nanobench.stats.knee import knee

MARGIN = 0.85
"""Recommended share of the largest batch that fits: other memory use and fragmentation vary."""
MOST = 4096
"""The largest batch to try where nothing runs out of memory."""
NEAR = 16
"""The search ends where the smallest batch that failed exceeds the largest that fits by at most one part in this many."""
SMALL = (1, 4, 16)
"""Batch sizes tried first where the limit is known. The last two give the line: other parts dominate the memory of one row."""
UNLIKE, FARTHEST = 1.25, 3
"""Where two slopes in a row differ by more than the factor, the line is used up to so many times its largest batch."""
COARSE = 4
"""The knee is searched for more closely where the next smaller batch that was tried is more than so many times smaller."""


@dataclass(frozen=True)
class SearchConfig:
    """What is searched for."""

    margin: float = MARGIN
    total_batch: int | None = None
    """rows of an optimizer step over all ranks, a multiple of the batch; None for any batch"""
    most: int = MOST
    max_seconds: float = 600.0
    """no trial begins later than this"""

    def fitting(self, batch_size: int, ranks: int) -> int:
        """The largest valid batch up to this one; 0 where there is none."""
        if self.total_batch is None:
            return batch_size
        if self.total_batch % ranks:
            return 0
        return max((n for n in divisors(self.total_batch // ranks) if n <= batch_size), default=0)

    def most_option(self, ranks: int) -> str:
        """The option that bounds a search in which everything fits."""
        return "--most" if self.total_batch is None or self.total_batch // ranks > self.most else "--total-batch"


@functools.cache
def divisors(number: int) -> tuple[int, ...]:
    """The divisors of a number, in no order."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return (*small, *(number // n for n in small))


@dataclass(frozen=True)
class BatchTrial:
    """The result of one batch size."""

    batch_size: int
    tok_s: float | None
    """None where it ran out of memory"""
    peak_bytes: int | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class BatchAnswer:
    """What a search found."""

    batch_size: int
    """recommended"""
    knee_batch_size: int
    """the smallest that saturates throughput"""
    largest_batch_size: int
    """the largest that fits"""
    failed_batch_size: int | None
    """the smallest that ran out of memory; None where none did"""
    failed_reason: str | None
    bounded_by: str
    """what ended the search: memory, time, --most or --total-batch"""
    grad_accum: int | None
    """batches per optimizer step; None where any number is fine"""
    margin: float
    curve: tuple[BatchTrial, ...]
    """the batch sizes that fit, in rising order"""
    seconds: float
    memory_limit_bytes: int | None = None
    cached: bool = False
    """whether an earlier search found it"""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "BatchAnswer":
        """The answer that `to_json` turned into this document."""
        return cls(**{**data, "curve": tuple(BatchTrial(**each) for each in data["curve"])})

    def to_json(self) -> dict[str, object]:
        """The answer as a JSON document."""
        curve = [{"batch_size": each.batch_size, "tok_s": each.tok_s, "peak_bytes": each.peak_bytes} for each in self.curve]
        return {**asdict(self), "curve": curve}


class Search:
    """Tries batch sizes and keeps their results."""

    def __init__(
        self,
        measure: Callable[[int], BatchTrial],
        config: SearchConfig,
        ranks: int = 1,
        tell: Callable[[BatchTrial], None] = lambda trial: None,
        limit_bytes: int | None = None,
    ):
        self.measure, self.config, self.ranks, self.tell = measure, config, ranks, tell
        self.limit_bytes = limit_bytes
        self.trials: dict[int, BatchTrial] = {}
        self.failed_again: set[int] = set()
        self.started = time.monotonic()

    def fits(self, batch_size: int) -> bool:
        """Whether a batch of this size fit into memory the last time it was tried."""
        if batch_size not in self.trials:
            self.run_trial(batch_size)
        return self.trials[batch_size].tok_s is not None

    def run_trial(self, batch_size: int) -> None:
        """Tries a batch size. One that fails twice counts as failed."""
        had_failed = batch_size in self.trials
        self.trials[batch_size] = self.measure(batch_size)
        if had_failed and not self.fits(batch_size):
            self.failed_again.add(batch_size)
        self.tell(self.trials[batch_size])

    @property
    def timed_out(self) -> bool:
        """Whether the time limit is reached."""
        return bool(self.trials) and time.monotonic() - self.started >= self.config.max_seconds

    def run(self) -> BatchAnswer:
        """The answer. Raises UserError where not even the smallest batch fits."""
        while not self.timed_out and (batch_size := self.next_batch()):
            self.run_trial(batch_size)
        low, high = self.bounds()
        if not low:
            raise UserError(self.too_big())
        return self.answer(low, high)

    def bounds(self) -> tuple[int, int | None]:
        """The largest batch that fits (0: none yet), and the smallest above it that failed."""
        low = max((n for n in self.trials if self.fits(n)), default=0)
        return low, min((n for n in self.trials if n > low), default=None)

    def next_batch(self) -> int | None:
        """The next batch to try; None where the search has ended.

        First larger ones until one fails. Then one in the range that is left. At last the one that failed a second time,
        because memory fragmentation varies.
        """
        low, high = self.bounds()
        if high is None:
            return next((n for n in self.rising(low) if n > low), None)
        inside = self.inside(low, high)
        if high - low > max(1, low // NEAR) and inside > low:
            return inside
        return None if high in self.failed_again else high

    def rising(self, low: int) -> Iterator[int]:
        """Batch sizes to try while none has failed, in order of preference."""
        if self.limit_bytes is not None:
            yield from (self.usable(min(n, self.config.most)) for n in SMALL)
            expected, near = self.expected(), max(1, low // NEAR)
            if expected is not None and expected > low + near:
                yield self.usable(min(expected, self.config.most))
            beyond = sum(n > SMALL[-1] and n >= (expected or 0) - near for n in self.trials)
            yield self.usable(min(low + near * 2 ** max(0, beyond - 1), self.config.most))
        yield from self.doubling()

    def inside(self, low: int, high: int) -> int:
        """A batch size between one that fits and one that failed: near the one that is predicted, else in the middle."""
        guess = self.usable(self.near_expected(low, high))
        if low < guess < high:
            return guess
        middle = self.usable((low + high) // 2)
        return middle if middle > low else self.usable(high - 1)

    def near_expected(self, low: int, high: int) -> int:
        """The predicted batch, or a neighbour where that is known already; 0 where nothing is predicted between the two."""
        expected = self.expected()
        if expected is None:
            return 0
        if expected >= high:
            failures = sum(n >= high for n in self.trials)
            return high - max(1, high // (NEAR + 1)) * 2 ** (failures - 1)
        if expected > low:
            return expected
        near = max(1, low // NEAR)
        return low + near if expected >= low - near else 0

    def expected(self) -> int | None:
        """The largest batch on the line through the two largest that fit; None where they give no rising line."""
        known = sorted((n, each.peak_bytes) for n, each in self.trials.items() if each.peak_bytes is not None)
        if len(known) < 2 or self.limit_bytes is None:
            return None
        slopes = [(after - before) / (more - less) for (less, before), (more, after) in itertools.pairwise(known)]
        if slopes[-1] <= 0:
            return None
        large, large_bytes = known[-1]
        expected = int(large + (self.limit_bytes - large_bytes) / slopes[-1])
        is_line = len(slopes) > 1 and 1 / UNLIKE <= slopes[-2] / slopes[-1] <= UNLIKE
        return expected if is_line else min(expected, FARTHEST * large)

    def doubling(self) -> Iterator[int]:
        """1, 2, 4, ..., up to the largest batch to try, each reduced to a valid one."""
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
        return f"batch {failed.batch_size} runs out of memory ({failed.reason}); give more --memory-limit, or a smaller model"

    def answer(self, largest: int, failed: int | None) -> BatchAnswer:
        """The answer of a search that has ended, with the largest batch that fits and the smallest that failed."""
        bounded_by = "memory" if failed is not None else "time" if self.next_batch() else self.config.most_option(self.ranks)
        batch_size = self.recommended(largest)
        knee_batch_size = self.find_knee(batch_size)
        curve = tuple(self.trials[n] for n in sorted(self.trials) if self.trials[n].tok_s is not None)
        total = self.config.total_batch
        return BatchAnswer(
            batch_size=batch_size,
            knee_batch_size=knee_batch_size,
            largest_batch_size=largest,
            failed_batch_size=failed,
            failed_reason=None if failed is None else self.trials[failed].reason,
            bounded_by=bounded_by,
            grad_accum=None if total is None else total // (batch_size * self.ranks),
            margin=self.config.margin,
            curve=curve,
            seconds=time.monotonic() - self.started,
        )

    def find_knee(self, most: int) -> int:
        """The knee among the batch sizes up to `most`. Tries more of them where it is known only coarsely."""
        while True:
            rates = {n: each.tok_s for n, each in self.trials.items() if each.tok_s is not None and n <= most}
            found = knee(rates)
            below = max((n for n in rates if n < found), default=found)
            middle = self.usable(math.isqrt(below * found))
            if found <= COARSE * below or middle in self.trials or middle <= below or self.timed_out:
                return found
            self.run_trial(middle)

    def recommended(self, largest: int) -> int:
        """The valid batch at the margin of the largest one. Where that fails, the next smaller one that fits."""
        batch_size = max(self.usable(max(1, int(self.config.margin * largest))), min(self.trials))
        if self.fits(batch_size):
            return batch_size
        return max(n for n, each in self.trials.items() if each.tok_s is not None and n < batch_size)
