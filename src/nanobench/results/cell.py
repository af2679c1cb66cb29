"""A cell: one point with one arm, as its launches tell it. Times, ratios and readings; nothing here judges."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from nanobench.records import LaunchRecord, Outcome, Repetition
from nanobench.results import drafts
from nanobench.results.repetitions import (
    Call,
    Times,
    alternating_logs,
    call_s,
    call_times,
    decode_times,
    is_unsteady,
    paired_logs,
    seconds,
    split_calls,
    steady,
    timed,
    token_gaps,
    untimestamped,
)
from nanobench.results.run_context import Machine
from nanobench.roofline import flops, prediction, speculation, training
from nanobench.roofline.limits import Limits
from nanobench.roofline.prediction import Operations, Prediction, Time
from nanobench.roofline.speculation import Drafting
from nanobench.schema import Arm, GPTShape, Point
from nanobench.stats import intervals

ByLaunch = dict[int, list[Repetition]]


@dataclass(eq=False)
class Cell:
    """One point with one arm: its launches, and those of the arms that it is compared with. Two cells are never equal."""

    launches: Sequence[LaunchRecord]
    """at least one"""
    reference_launches: Sequence[LaunchRecord] = ()
    uncompiled_launches: Sequence[LaunchRecord] = ()
    machine: Machine = field(default_factory=Machine)
    single_rank_launches: Sequence[LaunchRecord] = ()
    """of the same arm, training on one rank"""

    @property
    def any_launch(self) -> LaunchRecord:
        """One of the launches, for what all have in common."""
        return self.launches[0]

    @property
    def point(self) -> Point:
        """What was run."""
        return self.any_launch.point

    @property
    def arm(self) -> Arm:
        """How it was run."""
        return self.any_launch.arm

    @property
    def arm_index(self) -> int:
        """Place of the arm in the sweep's list."""
        return self.any_launch.arm_index

    @property
    def is_reference(self) -> bool:
        """Whether this is the arm that speedups refer to."""
        return self.arm_index == 0

    @cached_property
    def shape(self) -> GPTShape | None:
        """The model's sizes, where the run tells them."""
        return self.machine.shapes.get(self.point.model)

    @cached_property
    def kv_access(self) -> str | None:
        """How the engine reads its cache; None where that is not known, and for FlexAttention, which reads blocks of it."""
        kv_access = self.first("kv_access")
        return kv_access if kv_access in flops.KV_ACCESS and self.has_calibrated_attention else None

    @property
    def has_calibrated_attention(self) -> bool:
        """Whether a calibration measures this kind of attention."""
        return self.arm.attention != "flex"

    @cached_property
    def drafting(self) -> Drafting | None:
        """How the engine drafts tokens; None for one that does not."""
        text = self.first("drafting")
        return None if text is None else Drafting.from_json(json.loads(text))

    def kept(self, rows: int) -> Sequence[float] | None:
        """The probabilities that so many rows keep the first drafted token, the first two, ...: those of synthetic acceptance,
        else from what the rows of this cell kept. None without passes over drafted tokens.
        """
        known = self.drafting.kept(rows) if self.drafting else None
        if known is not None or self.drafting is None or not drafts.passes(self.steady):
            return known
        found = drafts.kept_shares(self.steady)
        return [share ** (rows / self.point.batch_size) for share in found] + [0.0] * (self.drafting.length - len(found))

    @property
    def is_predictable(self) -> bool:
        """Whether it is known which passes the engine runs, and all of them have limits."""
        if self.arm.kv_cache != "float" or not self.has_calibrated_attention:
            return False
        if self.drafting is None:
            return self.kv_access is not None
        same_weights = self.drafting.draft is None or self.arm.weights == "float"
        return same_weights and bool(self.kept(self.point.batch_size))

    def predict(self, point: Point, limits: Limits, operations: Operations) -> Prediction:
        """A call of this engine at a point. Raises KeyError for limits that lack what a prediction needs. The cell must be
        predictable, and its shape known.
        """
        assert self.shape is not None
        if self.drafting is not None:
            kept = self.kept(point.batch_size) or ()
            return speculation.predict(self.shape, point, self.drafting, kept, limits, operations, self.arm.weights)
        assert self.kv_access is not None
        return prediction.predict(self.shape, point, self.kv_access, limits, operations, self.arm.weights)

    @cached_property
    def prediction(self) -> Prediction | None:
        """How long a call should take; None without a calibration or a profile, if limits are missing, and for an engine whose
        passes are not known.
        """
        limits = self.machine.limits_of(self.point, self.arm.weights)
        prefill, step = self.first("operations_prefill"), self.first("operations_per_step")
        if self.shape is None or limits is None or limits.missing() or prefill is None or not self.is_predictable:
            return None
        return self.predict(self.point, limits, Operations(prefill, step or 0.0))

    @cached_property
    def step_prediction(self) -> Time | None:
        """How long an optimizer step should take; None in generation, and where it cannot be predicted."""
        limits, operations = self.machine.limits_of(self.point, self.arm.weights), self.first("operations_per_step")
        if not self.point.trains or training.why_not(self.point, self.arm):
            return None
        if self.shape is None or limits is None or limits.missing() or operations is None:
            return None
        return training.predict_step(self.shape, self.point, self.arm, limits, operations)

    @cached_property
    def reference(self) -> "Cell | None":
        """The reference arm's cell at this point; None for the reference itself."""
        return None if self.is_reference or not self.reference_launches else Cell(self.reference_launches, machine=self.machine)

    @cached_property
    def uncompiled(self) -> "Cell | None":
        """The cell of the same arm without compilation; None where it was not measured."""
        return Cell(self.uncompiled_launches, machine=self.machine) if self.uncompiled_launches else None

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """What became of the arm in each launch."""
        return [launch.outcome for launch in self.launches]

    @cached_property
    def timed(self) -> list[Repetition]:
        """The timed repetitions of the launches that finished, valid or not."""
        return [each for launch in self.launches for each in timed(launch)]

    @cached_property
    def steady_by_launch(self) -> ByLaunch:
        """Launch -> its timed repetitions that count, without launches that have none."""
        return known({launch.launch: steady(launch) for launch in self.launches})

    @cached_property
    def steady(self) -> list[Repetition]:
        """The timed repetitions that count."""
        return joined(self.steady_by_launch)

    @cached_property
    def untimestamped_by_launch(self) -> ByLaunch:
        """Launch -> the repetitions that throughput comes from: those without timestamps, or all where every one has them."""
        chosen = {id(each) for each in untimestamped(self.steady)}
        return known({n: [each for each in found if id(each) in chosen] for n, found in self.steady_by_launch.items()})

    @cached_property
    def untimestamped(self) -> list[Repetition]:
        """The repetitions that throughput comes from."""
        return joined(self.untimestamped_by_launch)

    @cached_property
    def calls_by_launch(self) -> dict[int, list[Call]]:
        """Launch -> the calls of its timestamped repetitions, with a time for every token."""
        return {
            n: [call for each in found if each.timestamped for call in split_calls(each)]
            for n, found in self.steady_by_launch.items()
        }

    @cached_property
    def calls(self) -> list[Call]:
        """All timestamped calls."""
        return [call for calls in self.calls_by_launch.values() for call in calls]

    @cached_property
    def e2e_by_launch(self) -> dict[int, list[float]]:
        """Launch -> seconds of each timestamped call; of an engine that only generates whole outputs, of each repetition per
        call.
        """
        if self.calls:
            return {n: [call.e2e_s for call in calls] for n, calls in self.calls_by_launch.items()}
        return {n: list(map(call_s, found)) for n, found in self.untimestamped_by_launch.items()}

    @cached_property
    def e2e_s(self) -> list[float]:
        """The same of all launches."""
        return [e2e_s for found in self.e2e_by_launch.values() for e2e_s in found]

    @cached_property
    def ttft_s(self) -> list[float]:
        """Seconds to the first token of each timestamped call; of an engine that only generates whole outputs, of its calls of
        one token.
        """
        if self.calls or self.point.new_tokens == 1:
            return [call.ttft_s for call in self.calls] or self.e2e_s
        blocks = {n: {each.block for each in found} for n, found in self.steady_by_launch.items()}
        every = [(launch.launch, each) for launch in self.launches for each in launch.of_kind("first_token")]
        return [call_s(each) for n, each in every if each.valid and each.block in blocks.get(n, ())]

    @cached_property
    def invalid(self) -> list[Repetition]:
        """The timed repetitions that a recorded cause made invalid."""
        return [each for each in self.timed if not each.valid]

    @cached_property
    def sustained(self) -> list[Repetition]:
        """The long stretches of untimed work: the last one of each launch, after the one that gave its length."""
        return [found[-1] for launch in self.launches if (found := launch.of_kind("sustained"))]

    @cached_property
    def samples(self) -> list[Repetition]:
        """What the GPU was seen to do, ten times a second, during the sustained phases."""
        spans = [(each.started_at, each.started_at + seconds(each)) for each in self.sustained if each.started_at is not None]
        every = [each for launch in self.launches for each in launch.of_kind("sample")]
        return [each for each in every if any(low <= (each.started_at or 0.0) <= high for low, high in spans)]

    def first(self, name: str) -> Any:
        """The first known value of an outcome's field over the launches."""
        return next((value for each in self.outcomes if (value := getattr(each, name)) is not None), None)

    def largest(self, name: str) -> Any:
        """The largest known value of an outcome's field over the launches."""
        return max((value for each in self.outcomes if (value := getattr(each, name)) is not None), default=None)

    def seen(self, name: str, repetitions: Iterable[Repetition] | None = None) -> list[Any]:
        """The known values of a reading over the timed repetitions, or over others."""
        chosen = self.steady if repetitions is None else repetitions
        return [value for each in chosen if (value := getattr(each, name)) is not None]

    def per_second(self, name: str) -> float | None:
        """A reading summed over the timed repetitions that have it, per second of theirs."""
        having = [each for each in self.steady if getattr(each, name) is not None]
        return sum(getattr(each, name) for each in having) / sum(map(seconds, having)) if having else None

    def logs_of_ratios(self, times: Times) -> list[list[float]]:
        """Log of the reference's time over this arm's, launch by launch. Empty for the reference itself."""
        if self.is_reference:
            return []
        references = {launch.launch: launch for launch in self.reference_launches}
        found = (paired_logs(launch, references.get(launch.launch), times) for launch in self.launches)
        return [logs for logs in found if logs]

    @cached_property
    def speedup_logs(self) -> list[list[float]]:
        """Log of the reference's end-to-end time over this arm's, per pair, launch by launch."""
        return self.logs_of_ratios(call_times)

    @cached_property
    def decode_speedup_logs(self) -> list[list[float]]:
        """The same of the decode times: all tokens but the first."""
        return self.logs_of_ratios(decode_times)

    @cached_property
    def is_interleaved(self) -> bool:
        """Whether the arm and the reference took turns within one process in every launch that both finished."""
        processes = {each.launch: each.process for each in self.reference_launches if each.finished}
        both = (each for each in self.launches if each.finished and each.launch in processes)
        return all(processes[each.launch] == each.process for each in both)

    @cached_property
    def aa_logs(self) -> list[list[float]]:
        """The reference against itself at this point: see `alternating_logs`."""
        return [logs for launch in self.reference_launches if (logs := alternating_logs(launch))]

    @cached_property
    def aa(self) -> intervals.Interval | None:
        """The ratio of the reference to itself, which is 1 unless the measuring is at fault."""
        return intervals.ratio(self.aa_logs) if self.aa_logs else None

    @cached_property
    def components(self) -> intervals.Components | None:
        """The spread of the log ratios within and between launches."""
        return intervals.components(self.speedup_logs) if self.speedup_logs else None

    @cached_property
    def unsteady(self) -> int:
        """Launches with enough repetitions to tell, and which never settled."""
        return sum(map(is_unsteady, self.launches))

    @cached_property
    def gaps(self) -> tuple[np.ndarray, list[int], str | None]:
        """See `token_gaps`, of all timestamped calls."""
        return token_gaps(self.calls)


def known(by_launch: ByLaunch) -> ByLaunch:
    """Without the launches that have nothing."""
    return {launch: found for launch, found in by_launch.items() if found}


def joined(by_launch: ByLaunch) -> list[Repetition]:
    """The repetitions of all launches."""
    return [each for found in by_launch.values() for each in found]


def make_cells(launches: Iterable[LaunchRecord], machine: Machine | None = None) -> list[Cell]:
    """The cells of launches, a point with an arm each."""
    machine = machine or Machine()
    points: dict[Point, dict[int, list[LaunchRecord]]] = defaultdict(lambda: defaultdict(list))
    for each in launches:
        points[each.point][each.arm_index].append(each)
    cells = []
    for point, arms in points.items():
        single = points.get(replace(point, world_size=1), {}) if point.world_size > 1 else {}
        of_arm = {found[0].arm: found for found in arms.values()}
        single_of_arm = {found[0].arm: found for found in single.values()}
        for _, found in sorted(arms.items()):
            twin = of_arm.get(replace(found[0].arm, compile_mode="off"), [])
            cells.append(Cell(found, arms.get(0, []), twin, machine, single_of_arm.get(found[0].arm, [])))
    return cells


def by_point_and_arm(launches: Iterable[LaunchRecord]) -> dict[tuple[Point, Arm], list[LaunchRecord]]:
    """Launches grouped into those of each cell, in order of appearance."""
    groups: dict[tuple[Point, Arm], list[LaunchRecord]] = defaultdict(list)
    for each in launches:
        groups[each.point, each.arm].append(each)
    return dict(groups)
