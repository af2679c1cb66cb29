"""The answer of an A/B comparison in words, as a table, and as one JSON document."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nanobench.errors import UserError
from nanobench.records import LaunchRecord, Verdict
from nanobench.results import decision
from nanobench.results.decision import Answer, Decision
from nanobench.results.derive import CellRow
from nanobench.results.run_info import RunInfo
from nanobench.schema import Point
from nanobench.sweep.ab_options import AbOptions
from nanobench.views import format
from nanobench.views.cell_table import CellTable, Column, keys
from nanobench.views.summary import Part

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
    yield over_points(answers, over_all, threshold)


def over_points(answers: Mapping[Point, Decision], over_all: Decision, threshold: float) -> str:
    """The answer over all points: it is one of their mean."""
    said = sentence(over_all, threshold)
    return f"mean of {len(answers)} points: {said}" if len(answers) > 1 and over_all.ratio is not None else said


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
        return f"NEW is as fast as BASE within {format.percent(math.expm1(threshold))}"
    return "undecided" if found.answer is Answer.UNDECIDED else f"NEW is {found.answer} than BASE"


def gates(launches: list[LaunchRecord]) -> list[str]:
    """What the gates across the sides, and of sides whose output is not the model's, found; each finding once."""
    across = [each.outcome.across_note for each in launches if each.outcome.across_note]
    others = [each for each in launches if each.outcome.gate in (Verdict.LOSSY, Verdict.SYNTHETIC)]
    own = [f"{each.arm.label}: {each.outcome.gate}, {each.outcome.gate_note}" for each in others]
    return list(dict.fromkeys([*across, *own]))


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


# A recorded comparison
@dataclass(frozen=True)
class Recorded:
    """What a recorded comparison found."""

    names: tuple[str, str]
    """the sides"""
    answers: Mapping[Point, Decision]
    over_all: Decision
    threshold: float
    """log ratio below which a difference does not matter"""
    gates: list[str]
    """what the gate across the sides found"""


def recorded(info: RunInfo, launches: list[LaunchRecord]) -> Recorded | None:
    """What a run of `ab` found, by the threshold that was requested; None for another run, and before both sides ran."""
    sides = [arm.side for arm in info.plan.arms]
    if len(sides) != 2 or not all(sides):
        return None
    try:
        threshold = AbOptions(threshold=str(info.requested.get("threshold", AbOptions.threshold))).threshold_log()
    except UserError:
        return None
    answers = decision.decide(launches, threshold, bool(info.requested.get("allow_different")), decision.machine_of(info))
    if not answers:
        return None
    over_all = decision.overall(launches, threshold, answers, decision.machine_of(info))
    return Recorded((sides[0], sides[1]), answers, over_all, threshold, gates(launches))


def paragraph(found: Recorded) -> list[Part]:
    """The answer, what it means, the sides, and whether they put out the same."""
    below = format.percent(math.expm1(found.threshold))
    parts = {
        "": over_points(found.answers, found.over_all, found.threshold),
        "Decision": f"{ACTIONS[found.over_all.answer]}; a difference below {below} does not matter",
        "Sides": "; ".join(found.names),
        "Outputs": "; ".join(found.gates) or "no gate compared the sides",
    }
    return [Part(head, f"{text.rstrip('.')}.") for head, text in parts.items()]


def sentences(found: Recorded) -> list[str]:
    """All of it, a sentence each."""
    said = lines(found.names, found.answers, found.over_all, found.threshold)
    return [*map(str.strip, said), *found.gates]


def table(found: Recorded) -> CellTable:
    """The answer at each point."""
    rows: list[CellRow] = [
        {**asdict(point), **asdict(each), "answer": words(each, found.threshold), "arm": found.names[1]}
        for point, each in found.answers.items()
    ]
    return CellTable((*keys(rows)[:-1], *COLUMNS), rows)


COLUMNS = (
    Column("answer", lambda row: row["answer"], align="left"),
    Column(
        "time of BASE / NEW [95 %]",
        lambda row: None if row["ratio"] is None else format.near_one(row["ratio"], row["low"], row["high"]),
        sorts_by="ratio",
    ),
    Column("launches", lambda row: format.text(row["launches"], "count"), sorts_by="launches"),
    Column("would decide it", lambda row: row["needed"] and format.count(row["needed"], "launch"), sorts_by="needed"),
    Column("reason", lambda row: row["reason"], align="left"),
)
