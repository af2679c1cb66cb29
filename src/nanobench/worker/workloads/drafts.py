"""What an engine reports of the tokens that it drafts, added to the repetitions; and which tokens are not the model's.

Most engines report nothing. The contract is in `engines/base.py`.
"""

import json
from dataclasses import replace
from typing import Any

from nanobench.probes.clock import Clock
from nanobench.records import Gate, Repetition, Verdict

DRAFT = "draft"
"""The part of a step whose time is reported."""


class DraftMeter:
    """Reads the counts of an engine, and times its drafts by timestamps."""

    def __init__(self, engine: Any, clock: Clock) -> None:
        self.engine = engine
        self.clock = clock
        self.synthetic: str | None = getattr(engine, "synthetic", None)
        self.counts = getattr(engine, "draft_counts", None)
        self.times_parts = hasattr(engine, "part_begins")
        self.timestamped = False
        self.begun: list[tuple[str, Any]] = []
        self.places: list[tuple[int, ...]] = []
        if self.times_parts:
            self.engine.part_begins = self.part_begins

    def part_begins(self, part: str) -> None:
        """Takes a timestamp, in a repetition that has timestamps."""
        if self.timestamped:
            self.begun.append((part, self.clock.timestamp()))

    def begin(self, timestamped: bool) -> None:
        """Before a repetition: what came earlier does not count."""
        self.timestamped, self.begun, self.places = timestamped, [], []
        if self.counts is not None:
            self.counts()

    def call_ended(self) -> None:
        """After each call: keeps which of its tokens the model chose, if others are not the model's."""
        if self.synthetic is not None:
            self.places.append(tuple(self.engine.model_places))

    def added_to(self, timed: Repetition) -> Repetition:
        """The repetition with what the engine counted, and the time of the drafts."""
        if self.counts is None:
            return timed
        return replace(timed, **{**vars(self.counts()), "draft_s": self.draft_s()})

    def draft_s(self) -> float | None:
        """Seconds of all drafts; None in a repetition without timestamps."""
        if not self.timestamped or not self.times_parts:
            return None
        if not self.begun:
            return 0.0
        times_s = self.clock.resolve([timestamp for _, timestamp in self.begun])
        ends_s = zip(self.begun, times_s, times_s[1:], strict=False)
        return sum(end_s - begin_s for (part, _), begin_s, end_s in ends_s if part == DRAFT)

    def places_of(self, calls: int) -> list[tuple[int, ...] | None]:
        """The tokens of each of the last calls that the model chose; None where it chose all."""
        return [None] * calls if self.synthetic is None else [*self.places]

    def labelled(self, gate: Gate) -> Gate:
        """A verdict that says that tokens are synthetic, where they are: such an arm is never `exact`."""
        if self.synthetic is None or gate.verdict is Verdict.WRONG:
            return gate
        return replace(gate, verdict=Verdict.SYNTHETIC)

    def outcome(self) -> dict[str, Any]:
        """The fields of an outcome about drafts."""
        drafting = getattr(self.engine, "drafting", None)
        return {"synthetic": self.synthetic, "drafting": None if drafting is None else json.dumps(drafting.to_json())}
