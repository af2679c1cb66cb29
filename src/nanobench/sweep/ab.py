"""An A/B comparison: a sweep whose two arms are sides with code or environments of their own, until the answer is decided."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanobench import source_code
from nanobench.errors import UserError
from nanobench.records import Description
from nanobench.results import decision, out_folder
from nanobench.results.decision import Answer, Decision
from nanobench.results.run_info import stopped_event
from nanobench.results.store import Run
from nanobench.schema import GPTShape, Plan, Point, Trial
from nanobench.stats import sequential
from nanobench.sweep import device_lock, revision, session
from nanobench.sweep import plan as planning
from nanobench.sweep.ab_options import AbOptions
from nanobench.sweep.duet import Duet
from nanobench.sweep.executors import local
from nanobench.sweep.executors.base import Executor, Interpreter
from nanobench.sweep.job import SILENT, Audience
from nanobench.sweep.progress import Watch
from nanobench.sweep.runner import Sweep
from nanobench.sweep.side import Side

NAMES = ("BASE", "NEW")
SHARPER = 4
"""A launch may stop before its seconds are used where its own interval is so many times narrower than the threshold."""


class SideError(UserError):
    """One side cannot run."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(f"{side}: {reason}")
        self.side = side


@dataclass(frozen=True)
class Prepared:
    """Both sides with their files, ready to run."""

    sides: tuple[Side, Side]
    interpreters: tuple[Interpreter, Interpreter]
    names: tuple[str, str]
    """as the arms are labelled"""


@contextmanager
def prepared(options: AbOptions) -> Iterator[Prepared]:
    """Writes the files of revisions into a temporary folder, which goes away at the end."""
    sides = options.sides()
    scratch = Path(tempfile.mkdtemp(prefix="nanobench-ab-"))
    try:
        interpreters, names = [], []
        for name, side in zip(NAMES, sides, strict=True):
            own = scratch / name
            own.mkdir()
            found = revision.extract(side.revision, own / "files") if side.revision else None
            interpreters.append(side.interpreter(found, own))
            words = [
                str(found) if found else side.text,
                *(f"{key}={value}" for key, value in side.changes.items() if value != side.text),
            ]
            names.append(f"{name}: {', '.join([*words, *filter(None, [side.python])])}")
        yield Prepared(sides, (interpreters[0], interpreters[1]), (names[0], names[1]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def make(options: AbOptions, both: Prepared) -> tuple[Plan, Description]:
    """The plan of the comparison, from what both sides say of their models. Raises UserError where a side cannot run it."""
    made = options.as_sweep()
    models = [str(side.changes["model"]) for side in both.sides if "model" in side.changes]
    if models:
        made = replace(made, model=models[0])
    request = planning.describe_request(made)
    found = []
    with tempfile.TemporaryDirectory(prefix="nanobench-") as folder:
        for side, interpreter, name in zip(both.sides, both.interpreters, NAMES, strict=True):
            own = with_models(request, side)
            executor = local.build("spawn", options.seed, Path(folder), interpreter)
            try:
                found.append(session.describe(executor, own, Path(folder)))
            except UserError as error:
                raise SideError(name, str(error)) from error
            finally:
                executor.close()
    base, new = found
    refuse_other_sizes(base, new)
    base = replace(base, models=models_of(base, new))
    plan = planning.make_plan(made, base)
    arm = plan.arms[0]
    arms = tuple(side.arm(arm, name) for side, name in zip(both.sides, both.names, strict=True))
    target_ci = min(plan.target_ci, options.threshold_log() / SHARPER)
    most = replace(plan, arms=arms, launches=sequential.LOOKS[-1], extra_launches=False, target_ci=target_ci)
    return most, replace(base, code={"nanobench": source_code.of_nanobench(commits=True)})


def with_models(request: dict[str, Any], side: Side) -> dict[str, Any]:
    """The request for a description, with the model of a side."""
    if "model" not in side.changes:
        return request
    return {**request, "models": {kind: [side.changes["model"]] for kind in request["models"]}}


def refuse_other_sizes(base: Description, new: Description) -> None:
    """Raises SideError where NEW's model takes other tokens than BASE's: they could not read the same prompts."""
    sizes = [next(iter(each.models.values())) for each in (base, new)]
    if sizes[0].vocab_size != sizes[1].vocab_size:
        words = f"it has a vocabulary of {sizes[1].vocab_size}, BASE of {sizes[0].vocab_size}; compare models of one vocabulary"
        raise SideError(NAMES[1], words)


def models_of(base: Description, new: Description) -> dict[str, GPTShape]:
    """BASE's model, and NEW's beside it if that has other sizes."""
    ((name, shape),) = new.models.items()
    known = dict(base.models)
    if shape not in known.values():
        known[name if name not in known else f"{name} of {NAMES[1]}"] = shape
    return known


class Comparison(Sweep):
    """Launches of the points that are not decided, until all are or the time is up."""

    def __init__(self, options: AbOptions, *facts: Any) -> None:
        super().__init__(*facts)
        self.threshold, self.allow_different = options.threshold_log(), options.allow_different

    def decisions(self) -> dict[Point, Decision]:
        """The answers so far."""
        return decision.decide(self.launches, self.threshold, self.allow_different, decision.machine_of(self.info))

    def rounds(self) -> Iterator[list[Trial]]:
        """A launch of each point whose answer another launch can change."""
        for launch in range(1, self.plan.launches + 1):
            answers = self.decisions()
            open_points = [point for point in self.plan.order(launch) if is_open(answers.get(point))]
            if not open_points:
                return
            self.ahead = [self.plan.trial(point, launch) for point in open_points]
            yield self.ahead
        self.note(stopped_event(f"{self.plan.launches} launches did not decide it"))


def is_open(found: Decision | None) -> bool:
    """Whether another launch can change an answer."""
    return found is None or found.answer is Answer.UNDECIDED


@dataclass(frozen=True)
class Result:
    """A finished comparison."""

    names: tuple[str, str]
    """the sides"""
    answers: dict[Point, Decision]
    over_all: Decision
    run: Run


def run(options: AbOptions, audience: Audience = SILENT) -> Result:
    """Holds the device, and compares. Raises UserError for what is wrong with the request, and where a side cannot run."""
    folder = out_folder.choose(options.out, "ab")
    with device_lock.hold(device_lock.guess(options.device), options.wait, audience.waiting):
        return compare(options, folder, audience)


def compare(options: AbOptions, folder: Path, audience: Audience = SILENT) -> Result:
    """Prepares, plans and measures a comparison on a device that is held. Raises UserError where a side cannot run."""
    with prepared(options) as both:
        plan, description = make(options, both)
        audience.planned(plan, description)
        run = session.new_run(folder, "ab", options, plan, description)
        with audience.measuring(run, plan) as watch:
            answers, over_all = measure(run, options, both, plan, description, watch)
    return Result(both.names, answers, over_all, run)


def measure(
    run: Run, options: AbOptions, both: Prepared, plan: Plan, description: Description, watch: Watch
) -> tuple[dict[Point, Decision], Decision]:
    """Runs the comparison. Returns the answer at each point, and the one over all."""

    def make_executor() -> Executor:
        sides = {
            arm.side: (side, local.build(options.isolation, 1000 * options.seed, run.scratch / "inductor", interpreter))
            for arm, side, interpreter in zip(plan.arms, both.sides, both.interpreters, strict=True)
        }
        return Duet(sides, run.scratch)

    with session.stopping(run, plan):
        made = Comparison(options, run, plan, description, make_executor, session.keeping_time(run, watch))
        session.finish(made)
    answers = made.decisions()
    return answers, decision.overall(made.launches, made.threshold, answers, decision.machine_of(made.info))
