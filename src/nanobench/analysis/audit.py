"""Ways in which published scripts went wrong: what each would publish, beside what is measured with all rules."""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from nanobench.records import JUDGED, MEASURED, JsonObject
from nanobench.results.derive import CellRow
from nanobench.stats import intervals

UNCACHED, FULL, CACHED = "uncached", "uncached-full-logits", "cached"
LAGGING, COPY = "nanobench.worker.audit:lagging_position", "nanobench.worker.selftest_engines:uncached_copy"
ENGINES = (UNCACHED, FULL, CACHED, LAGGING, COPY)
"""The arms of our own sweep."""
PUBLISHED_REFERENCES = (UNCACHED, FULL, CACHED)
Cells = Mapping[str, CellRow]
"""Engine -> its cell in our own sweep."""


class Ours(NamedTuple):
    """A value with its interval; without a value, or for one that is excluded from conclusions, the reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    excluded: bool = False


class Found(StrEnum):
    """What a faulty method did here."""

    WRONG = "beyond our interval"
    SMALL = "within our interval here"
    NO_NUMBER = "published what has no number"
    SKIPPED = "skipped"
    UNKNOWN = "our figure is not reliable"


@dataclass(frozen=True)
class Specimen:
    """One faulty method."""

    name: str
    publishes: str
    """what the published number is"""
    unit: str
    fault: str
    """what the script does"""
    why: str
    """why that is wrong"""
    ours: Callable[[Cells], Ours] | None
    """our figure; None where the method returns it"""
    derived: Callable[[Cells, int], float | None] | None = None
    """what would be published, from our own sweep; None where the method measures it"""


@dataclass(frozen=True)
class Row:
    """A method beside our measurement."""

    specimen: Specimen
    found: Found
    published: float | None = None
    ours: Ours = Ours(None)
    note: str | None = None

    @property
    def factor(self) -> float | None:
        """Published over ours."""
        return self.published / self.ours.value if self.published is not None and self.ours.value else None


# Our figures
def speedup(arm: str) -> Callable[[Cells], Ours]:
    """The speedup of an arm over uncached."""

    def ours(cells: Cells) -> Ours:
        cell = cells[arm]
        if cell["status"] not in MEASURED:
            return Ours(None, reason=f"{cell['status']}: {cell['reason']}")
        return judged(cell, "speedup", "speedup_lo", "speedup_hi", status="speedup_status", reason="speedup_reason")

    return ours


def figure(arm: str, name: str, low: str, high: str) -> Callable[[Cells], Ours]:
    """An absolute figure of an arm."""

    def ours(cells: Cells) -> Ours:
        return judged(cells[arm], name, low, high, status="status", reason="reason")

    return ours


def judged(cell: CellRow, name: str, low: str, high: str, status: str, reason: str) -> Ours:
    """A figure of a cell; excluded where its status is not reliable, as from all conclusions."""
    excluded = cell[status] not in JUDGED
    return Ours(cell[name], cell[low], cell[high], cell[reason] if excluded or cell[name] is None else None, excluded)


def returned(values: Sequence[float]) -> Ours:
    """The figure that a method returned: the geometric mean of several values with its interval, or a count."""
    if len(values) == 1:
        return Ours(values[0], values[0], values[0])
    found = intervals.ratio([[math.log(value) for value in values]])
    return Ours(found.value, found.low, found.high)


# What would be published
def full_logits(cells: Cells, seed: int) -> float | None:
    """Cached over an uncached arm that computes the logits of all positions."""
    cached, full = cells[CACHED]["speedup"], cells[FULL]["speedup"]
    return cached / full if cached and full else None


def random_reference(cells: Cells, seed: int) -> float | None:
    """Cached over whichever engine a shuffle puts first."""
    name = random.Random(seed).choice(PUBLISHED_REFERENCES)
    times = {UNCACHED: 1.0, FULL: cells[FULL]["speedup"], CACHED: cells[CACHED]["speedup"]}
    return times[CACHED] / times[name] if times[CACHED] and times[name] else None


def prompt_tokens(cells: Cells, seed: int) -> float | None:
    """Tokens per second, those of the prompt among them."""
    cell = cells[CACHED]
    if cell["output_tok_s"] is None:
        return None
    return float(cell["output_tok_s"] * (cell["prompt_len"] + cell["new_tokens"]) / cell["new_tokens"])


SPECIMENS = {
    each.name: each
    for each in (
        Specimen(
            "other-warm-up", "speedup", "x", "warms up with one short row, then runs each arm once",
            "the first call at a new shape chooses kernels and allocates memory, and is the one that counts", speedup(CACHED),
        ),
        Specimen(
            "one-run", "speedup", "x", "runs each arm once, in a fixed order",
            "one run has no spread, so nobody can know how far off it is", speedup(CACHED),
        ),
        Specimen(
            "last-token-ttft", "TTFT", "s", "sets the stamp of the first token in every step",
            "the time of the last token is published as that of the first", None,
        ),
        Specimen(
            "full-logits", "speedup", "x", "computes the logits of all positions, in the uncached arm only",
            "work that no token needs is counted as a gain of the cache", speedup(CACHED), full_logits,
        ),
        Specimen(
            "sampling-in-one-arm", "speedup", "x", "samples in the cached arm, and takes the argmax in the uncached arm",
            "the arms do different work", speedup(CACHED),
        ),
        Specimen(
            "autocast-per-run", "TTFT", "s", "enters a new autocast in each run",
            "each run converts all weights again, and that is counted as prefill", None,
        ),
        Specimen(
            "wait-per-token", "time of a call", "s", "waits for the device after each token",
            "the host cannot prepare a step while the one before runs", figure(CACHED, "e2e_s", "e2e_lo_s", "e2e_hi_s"),
        ),
        Specimen(
            "no-wait", "time of a call", "s", "stops the clock without waiting for the device",
            "the work is not finished when the clock stops", figure(UNCACHED, "e2e_s", "e2e_lo_s", "e2e_hi_s"),
        ),
        Specimen(
            "no-optimizer", "bytes of a training step", "B", "searches for a batch size without an optimizer step",
            "the state of the optimizer needs memory too, so the batch size that was found does not fit", None,
        ),
        Specimen(
            "random-reference", "speedup", "x", "shuffles the engines, and divides by the first",
            "the reference is another engine in each run", speedup(CACHED), random_reference,
        ),
        Specimen(
            "prompt-tokens", "tokens per second", "tok/s", "counts the tokens of the prompt as generated",
            "the prompt was given, not generated", figure(CACHED, "output_tok_s", "output_tok_s_lo", "output_tok_s_hi"),
            prompt_tokens,
        ),
        Specimen(
            "other-work", "speedup", "x", "embeds each token at the position of the one before, and compares no output",
            "the arm computes something else, so its speed says nothing", speedup(LAGGING),
        ),
        Specimen(
            "blocks", "speedup of equal arms", "x", "runs all calls of one arm, then all of the other",
            "a drift of the machine looks like a difference of the arms", speedup(COPY),
        ),
    )
}  # fmt: skip
"""Name -> the method, in the order of the table."""


def measured(names: Iterable[str]) -> list[str]:
    """Those of the methods that are measured; the others follow from our own sweep."""
    return [name for name in names if SPECIMENS[name].derived is None]


def rows(names: Iterable[str], cells: Iterable[CellRow], answers: Mapping[str, JsonObject], seed: int) -> list[Row]:
    """The row of each method, from our own sweep and from what workers say."""
    by_engine = {cell["engine"]: cell for cell in cells}
    return [row(SPECIMENS[name], by_engine, answers.get(name, {}), seed) for name in names]


def row(specimen: Specimen, cells: Cells, answer: JsonObject, seed: int) -> Row:
    """A method's row. `answer` is what a worker says of it; empty for one that is derived from our own sweep."""
    if "skipped" in answer:
        return Row(specimen, Found.SKIPPED, note=answer["skipped"])
    published = specimen.derived(cells, seed) if specimen.derived else answer.get("published")
    ours = specimen.ours(cells) if specimen.ours else returned(answer["ours"])
    if published is None:
        return Row(specimen, Found.UNKNOWN, None, ours, "our own sweep has no figure to derive it from")
    if ours.value is None:
        is_wrong = specimen.name == "other-work" and (ours.reason or "").startswith("wrong")
        return Row(specimen, Found.NO_NUMBER if is_wrong else Found.UNKNOWN, published, ours, ours.reason)
    if ours.excluded:
        return Row(specimen, Found.UNKNOWN, published, ours, ours.reason)
    inside = ours.low is not None and ours.high is not None and ours.low <= published <= ours.high
    return Row(specimen, Found.SMALL if inside else Found.WRONG, published, ours)
