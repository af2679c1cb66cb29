"""The repetitions of one launch: which of them count, and the calls inside them.

A launch that never settles, or that is too short to tell, counts as a whole.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from nanobench.records import LaunchRecord, Repetition
from nanobench.schema import Arm, Point
from nanobench.stats import steady_state

POINT_FIELDS = [each.name for each in fields(Point)]
ARM_FIELDS = [each.name for each in fields(Arm)]
TREND = 0.1
"""An arm has a trend over positions where the gaps of the last quarter differ by more from those of the first."""
LEAST_SERIES = 30
"""A launch is tested for a steady state from this number of repetitions on: of 20 noisy ones, one series in six fails."""
settles_at = lru_cache(maxsize=1 << 14)(steady_state.steady_from)
Times = Callable[[Iterable[Repetition]], dict[int, list[float]]]
"""Repetitions -> block -> seconds."""


def point_of(row: Mapping[str, Any]) -> Point:
    """The point of a cell's row."""
    return Point(**{name: row[name] for name in POINT_FIELDS})


def arm_of(row: Mapping[str, Any]) -> Arm:
    """The arm of a cell's row."""
    return Arm(**{name: row[name] for name in ARM_FIELDS})


@dataclass(frozen=True)
class Call:
    """One timestamped generate call, in seconds from its start."""

    ttft_s: float
    e2e_s: float
    itl_s: tuple[float, ...]
    """gaps between consecutive tokens"""

    @property
    def decode_s(self) -> float:
        """From the first token to the last."""
        return self.e2e_s - self.ttft_s


def token_gaps(calls: Sequence[Call]) -> tuple[np.ndarray, list[int], str | None]:
    """Gaps between tokens in seconds, the number of the call that each belongs to, and the positions that they cover.

    All positions, or the last quarter where the time per token grows with the position.
    """
    if not calls or not calls[0].itl_s:
        return np.empty(0), [], None
    gaps = np.array([call.itl_s for call in calls])
    last, begin = gaps.shape[1], 0
    middle, quarter = np.median(gaps, axis=0), max(1, last // 4)
    ends = float(np.median(middle[:quarter])), float(np.median(middle[-quarter:]))
    if last >= 8 and ends[0] > 0 and abs(ends[1] / ends[0] - 1) > TREND:
        begin = last - quarter
    chosen = gaps[:, begin:]
    numbers = np.repeat(np.arange(len(chosen)), chosen.shape[1])
    return chosen.ravel(), numbers.tolist(), f"{begin + 2}-{last + 1}"


def timed(launch: LaunchRecord) -> list[Repetition]:
    """The timed repetitions of a launch that finished, valid or not."""
    return launch.of_kind("steady") if launch.finished else []


def steady(launch: LaunchRecord) -> list[Repetition]:
    """The timed repetitions that count: no recorded cause made them invalid, and the launch had settled by then."""
    valid = [each for each in timed(launch) if each.valid]
    series = untimestamped(valid)
    times_s = tuple(call_s(each) for each in series)
    first = settles_at(times_s) if len(times_s) >= LEAST_SERIES else None
    begin = series[first].block if first else 0
    return [each for each in valid if each.block is None or each.block >= (begin or 0)]


def is_unsteady(launch: LaunchRecord) -> bool:
    """Whether a launch has enough repetitions to tell, and never settled."""
    times_s = tuple(call_s(each) for each in untimestamped([each for each in timed(launch) if each.valid]))
    return len(times_s) >= LEAST_SERIES and settles_at(times_s) is None


def untimestamped(repetitions: Iterable[Repetition]) -> list[Repetition]:
    """Those without a timestamp per token; all of them where every one has timestamps."""
    every = list(repetitions)
    return [each for each in every if not each.timestamped] or every


def seconds(repetition: Repetition) -> float:
    """Wall time of a timed repetition."""
    assert repetition.wall_s is not None
    return repetition.wall_s


def call_s(repetition: Repetition) -> float:
    """Seconds per call or step."""
    return seconds(repetition) / repetition.calls


def split_calls(repetition: Repetition) -> list[Call]:
    """The calls of a timestamped repetition. They run back to back, so each begins at the last token of the one before."""
    times = np.asarray(repetition.token_times_s, dtype=float).reshape(repetition.calls, -1)
    starts = np.concatenate(([0.0], times[:-1, -1]))
    return [Call(t[0] - s, t[-1] - s, tuple(np.diff(t).tolist())) for t, s in zip(times, starts, strict=True)]


def call_times(repetitions: Iterable[Repetition]) -> dict[int, list[float]]:
    """Block -> seconds per call, from the repetitions without timestamps where there are any."""
    return {each.block: [call_s(each)] for each in untimestamped(repetitions) if each.block is not None}


def decode_times(repetitions: Iterable[Repetition]) -> dict[int, list[float]]:
    """Block -> seconds of decode of each call, from the timestamped repetitions."""
    timestamped = (each for each in repetitions if each.timestamped and each.block is not None)
    return {each.block: [call.decode_s for call in split_calls(each)] for each in timestamped if each.block is not None}


def mean_logs(times: dict[int, list[float]]) -> dict[int, float]:
    """Block -> mean log of its times; blocks with a time of 0 (no decode at all) are left out."""
    return {block: float(np.mean(np.log(values))) for block, values in times.items() if values and min(values) > 0}


def paired_logs(launch: LaunchRecord, reference: LaunchRecord | None, times: Times) -> list[float]:
    """Log of the reference's time over the arm's in one launch: pair by pair where both ran in one process, else one value
    of the mean log times.
    """
    if reference is None:
        return []
    mine, theirs = mean_logs(times(steady(launch))), mean_logs(times(steady(reference)))
    if launch.process == reference.process:
        return [theirs[block] - mine[block] for block in mine if block in theirs]
    if not mine or not theirs:
        return []
    return [float(np.mean(list(theirs.values())) - np.mean(list(mine.values())))]


def alternating_logs(launch: LaunchRecord) -> list[float]:
    """Log ratios of neighbouring repetitions of one arm in one launch, as if it had two names and ran as ABBA.

    The A/A ratio costs nothing this way; a drift cancels as it does between two arms.
    """
    logs = [math.log(call_s(each)) for each in untimestamped(steady(launch))]
    pairs = zip(logs[::2], logs[1::2], strict=False)
    flip = launch.launch
    return [first - second if (number + flip) % 2 else second - first for number, (first, second) in enumerate(pairs)]
