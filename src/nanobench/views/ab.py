"""The answer of an A/B comparison in words, and as one JSON document."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from nanobench.records import LaunchRecord, Verdict
from nanobench.results.decision import Answer, Decision
from nanobench.schema import Point
from nanobench.views import format

ACTIONS = {
    Answer.FASTER: "keep",
    Answer.SAME: "keep",
    Answer.SLOWER: "discard",
    Answer.DIFFERENT: "discard",
    Answer.FAILED: "discard",
    Answer.UNDECIDED: "need more",
}
"""Answer -> what to do with the change."""
VARYING = ("model", "dtype", "batch_size", "prompt_len", "new_tokens", "seq_len", "phase", "threads")


def lines(names: tuple[str, str], answers: Mapping[Point, Decision], over_all: Decision, threshold: float) -> Iterator[str]:
    """The sides, the answer at each point where there are several, and the answer over all."""
    yield from names
    if len(answers) > 1:
        varying = [name for name in VARYING if len({getattr(point, name) for point in answers}) > 1]
        for point, found in answers.items():
            where = ", ".join(f"{name.removesuffix('_size')} {getattr(point, name)}" for name in varying)
            yield f"  {where}: {sentence(found, threshold)}"
    yield sentence(over_all, threshold)


def sentence(found: Decision, threshold: float) -> str:
    """One answer with its ratio, its interval and its reason."""
    if found.answer in (Answer.DIFFERENT, Answer.FAILED):
        return f"speed is not compared: {found.reason}"
    ratio = "" if found.ratio is None else f", {format.near_one(found.ratio, found.low, found.high)}"
    parts = [f"{words(found, threshold)}{ratio} after {format.count(found.launches, 'launch')}"]
    if found.answer is Answer.UNDECIDED:
        more = f"about {found.needed} launches would decide it" if found.needed else "more launches would not decide it"
        parts.append(more)
    return "; ".join(filter(None, [*parts, found.reason]))


def words(found: Decision, threshold: float) -> str:
    """The answer."""
    if found.answer is Answer.SAME:
        return f"NEW is as fast as BASE within {format.percent(threshold)}"
    return "undecided" if found.answer is Answer.UNDECIDED else f"NEW is {found.answer} than BASE"


def gates(launches: list[LaunchRecord]) -> list[str]:
    """What the gates across the sides and of lossy sides found, each finding once."""
    across = [each.outcome.across_note for each in launches if each.outcome.across_note]
    lossy = [f"{each.arm.label}: lossy, {each.outcome.gate_note}" for each in launches if each.outcome.gate is Verdict.LOSSY]
    return list(dict.fromkeys([*across, *lossy]))


def document(
    names: tuple[str, str], answers: Mapping[Point, Decision], over_all: Decision, launches: list[LaunchRecord], wall_s: float
) -> dict[str, Any]:
    """All of it for programs."""
    return {
        "base": names[0],
        "new": names[1],
        "decision": ACTIONS[over_all.answer],
        **asdict(over_all),
        "gate": gates(launches),
        "points": [{**asdict(point), **asdict(found)} for point, found in answers.items()],
        "wall_s": wall_s,
    }
