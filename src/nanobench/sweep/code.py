"""The source code of a sweep: it belongs to the identity of the trials, and stays the same until the run is complete."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from nanobench import registry, source_code
from nanobench.errors import UserError
from nanobench.records import JsonObject
from nanobench.schema import LOOKUP, TOKENIZER_FILE, Arm, Point
from nanobench.source_code import Source, SourceCode
from nanobench.sweep.executors.base import Executor, Progress, WorkerResult, at_once

SHOWN = 3
"""So many changed files are named in a message."""


def code_of(points: Collection[Point], arms: Iterable[Arm], commits: bool = False) -> dict[str, Source]:
    """The source of nanobench, of each plug-in that some points and arms name, and the files that their models, texts and
    tokenizers are read from; with their commits if that is requested.
    """
    arms = list(arms)
    drafts = {draft for arm in arms if (draft := draft_of(arm.engine))}
    members = {
        *((family, name) for point in points for family, name in (("models", point.model), ("optimizers", point.optimizer))),
        *((family, name) for arm in arms for family, name in (("engines", arm.engine), ("samplers", arm.sampler))),
        *(("models", draft) for draft in drafts),
    }
    modules = {module for family, name in members if (module := registry.module_of(family, name))}
    plug_ins = sorted(module for module in modules if module.partition(".")[0] != "nanobench")
    found = {module: source_code.of_module(module, commits) for module in plug_ins}
    models = {point.model for point in points} | drafts
    locations = {path for model in models if (path := registry.location_of("models", model))}
    locations |= {path for point in points for path in inputs_of(point)}
    read = {str(path): source_code.of_location(path) for path in sorted(locations)}
    return {"nanobench": source_code.of_nanobench(commits), **found, **read}


def draft_of(engine: str) -> str | None:
    """The model that an engine drafts with; None for one that drafts with none."""
    draft = registry.parse("engines", engine).arguments.get("draft")
    return draft if isinstance(draft, str) and draft != LOOKUP else None


def inputs_of(point: Point) -> list[Path]:
    """The files of a point's text and of its tokenizer."""
    named = [point.data, point.tokenizer if point.tokenizer.endswith(TOKENIZER_FILE) else ""]
    return [Path(each) for each in named if each and Path(each).is_file()]


def refuse_resume(place: str, was: SourceCode, now: SourceCode) -> None:
    """Raises UserError where a run was begun with other source code, or does not say with which."""
    if not was:
        unknown = "was begun by a version of nanobench that kept no hashes of its source code"
        raise UserError(f"--resume {place} {unknown}, so it cannot continue; start a new run with --out")
    if source_code.changed(was, now):
        raise UserError(
            f"--resume {place} was begun with other source code: {in_words(was, now)}; "
            f"{way_back(was, now)}, or start a new run with --out"
        )


def in_words(was: SourceCode, now: SourceCode) -> str:
    """The files that changed, as many as fit into a message."""
    names = source_code.changed(was, now)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more} changed"


def way_back(was: SourceCode, now: SourceCode) -> str:
    """How to get the source code again with which a run was begun."""
    commits = [
        f"{name} at commit {source.commit[:12]}"
        for name, source in was.items()
        if source.commit and not source.dirty and source.files != now.get(name, Source()).files
    ]
    return f"go back to {' and '.join(commits)}" if commits else "undo the change"


@dataclass(frozen=True)
class SameCode:
    """Meets Executor. Ends the sweep where the source code is not that of the plan, before a trial and before it is saved.

    A worker imports plug-ins when its trial begins.
    """

    executor: Executor
    was: SourceCode
    now: Callable[[], SourceCode]
    place: str
    """where the run is kept"""
    continues: bool
    """whether the command has --resume"""

    def run(self, request: JsonObject, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """See Executor.run. Raises UserError where the source code has changed."""
        if "trial" not in request:
            return self.executor.run(request, folder, log, timeout_s, progress)
        self.check()
        result = self.executor.run(request, folder, log, timeout_s, progress)
        self.check()
        return result

    def check(self) -> None:
        """Raises UserError where the source code has changed."""
        now = self.now()
        if source_code.changed(self.was, now):
            fix = (
                f"{way_back(self.was, now)} and continue with --resume, or start a new run"
                if self.continues
                else "measure again"
            )
            raise UserError(
                f"{in_words(self.was, now)} while the run was measured; finished trials are kept in {self.place}: {fix}"
            )

    def at_once(self, device: str) -> int:
        """See base.at_once."""
        return at_once(self.executor, device)

    def close(self) -> None:
        """See Executor.close."""
        self.executor.close()
