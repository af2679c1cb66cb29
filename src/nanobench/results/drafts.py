"""What became of drafted tokens, over the repetitions of an arm that drafts. Empty or None for other arms."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

from nanobench.records import Repetition
from nanobench.results.repetitions import split_calls


def by_position(repetitions: Iterable[Repetition], name: str) -> list[float]:
    """A count by position, summed over the repetitions that have it."""
    found = [values for each in repetitions if (values := getattr(each, name)) is not None]
    return [sum(values) for values in zip(*found, strict=True)]


def passes(repetitions: Iterable[Repetition]) -> int:
    """Passes of the model after the prefills."""
    return sum(each.target_passes or 0 for each in repetitions)


def shares(repetitions: Sequence[Repetition], name: str) -> list[float]:
    """For each position the share of its drafted tokens that were accepted or kept, as `name` says; up to the last position
    that was drafted.
    """
    drafted, reached = by_position(repetitions, "drafted_by_position"), by_position(repetitions, name)
    return [value / number for value, number in zip(reached, drafted, strict=True) if number]


def time_share(repetitions: Iterable[Repetition]) -> float | None:
    """The share of the decode time in which tokens were drafted, over timestamped repetitions."""
    timed = [each for each in repetitions if each.draft_s is not None and each.timestamped]
    decode_s = sum(call.decode_s for each in timed for call in split_calls(each))
    return sum(each.draft_s or 0.0 for each in timed) / decode_s if decode_s > 0 else None


def kept_shares(repetitions: Sequence[Repetition]) -> list[float]:
    """The probabilities that all rows keep the first drafted token, the first two, ... The last passes of a call draft fewer
    tokens, so a share may be counted over fewer passes than the one before it; but it is never the larger one.
    """
    return list(accumulate(shares(repetitions, "kept_by_position"), min))
