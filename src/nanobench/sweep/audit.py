"""Faulty methods of published scripts beside our own sweep, on one model: the request, and how it is measured."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanobench.errors import UserError, unknown
from nanobench.records import JsonObject
from nanobench.schema import Plan, option
from nanobench.sweep.options import MEASURING, OUTPUT, WHAT, GateOptions, Options, SweepOptions, TimedOptions, same
from nanobench.sweep.values import at_commas

if TYPE_CHECKING:
    from nanobench.results.derive import CellRow
    from nanobench.results.store import Run
    from nanobench.sweep.progress import Watch


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """What audit accepts: one point, and which methods are tried."""

    model: str = same(Options, "model", "a built-in model or a dotted path like my_pkg.my_mod:build")
    batch: int = option(8, "batch size", WHAT)
    dtype: str = same(Options, "dtype")
    device: str = same(Options, "device")
    threads: str = same(Options, "threads", "CPU threads; auto: every core that the process may use")
    prompt_len: str = same(GateOptions, "prompt_len", "prompt length in tokens")
    new_tokens: str = same(GateOptions, "new_tokens", "output length in tokens")
    only: str = option("", "the methods to try, like one-run,blocks; default: all (docs/audit.md)", WHAT, "LIST")
    launches: int = same(TimedOptions, "launches", "fresh processes of our own sweep")
    max_seconds: str = same(TimedOptions, "max_seconds")
    timeout: float = same(Options, "timeout")
    seed: int = option(0, "seed of the shuffle, and of random weights", MEASURING)
    wait: bool = same(TimedOptions, "wait")
    out: str = option("", "folder of our own sweep; default: a new one in results/", OUTPUT, "DIR")
    json: bool = same(Options, "json")

    def chosen(self, methods: Iterable[str]) -> list[str]:
        """Those of the methods that are requested, in their order. Raises UserError for an unknown one."""
        methods = list(methods)
        requested = at_commas(self.only) if self.only else methods
        for name in requested:
            if name not in methods:
                raise unknown("method", name, methods)
        return [name for name in methods if name in requested]

    def as_sweep(self, engines: tuple[str, ...]) -> SweepOptions:
        """Our own sweep over the point. Raises UserError for several points."""
        made = SweepOptions(
            model=self.model,
            batch=str(self.batch),
            dtype=self.dtype,
            device=self.device,
            threads=self.threads,
            prompt_len=self.prompt_len,
            new_tokens=self.new_tokens,
            engine=",".join(engines),
            launches=self.launches,
            max_seconds=self.max_seconds,
            timeout=self.timeout,
            seed=self.seed,
            calibration="off",
            no_plot=True,
        )
        several = sorted(field for field, values in made.axes.items() if len(values) > 1 and field != "engine")
        if several:
            raise UserError(f"audit tries its methods at one point; give one value for {', '.join(several)}")
        return made


@dataclass(frozen=True)
class Audit:
    """Our own sweep, and what each method would publish."""

    run: "Run"
    cells: "list[CellRow]"
    answers: dict[str, JsonObject]
    """method -> what a worker says of it"""


def measure(options: AuditOptions, engines: tuple[str, ...], methods: Iterable[str], folder: Path, watch: "Watch") -> Audit:
    """Measures our own sweep, then each of the methods in a worker of its own, on a device that is held.

    A method whose worker dies is skipped with the reason. Raises UserError where nothing can be measured.
    """
    from nanobench.sweep import session

    with session.first_workers(options.as_sweep(engines), folder) as first:
        plan, description = session.make(options.as_sweep(engines), first)
        run = session.new_run(folder, "audit", options, plan, description)
        cells = session.measure(run, plan, description, watch, first)
    answers = {name: publish(name, plan, options.timeout, run) for name in methods}
    run.clear_scratch()
    return Audit(run, cells, answers)


def publish(method: str, plan: Plan, timeout_s: float, run: "Run") -> JsonObject:
    """What a worker says of a method at the plan's point."""
    from nanobench.sweep.executors import local

    executor = local.build("spawn", plan.seed, run.scratch / "inductor")
    arguments = {"name": method, "point": asdict(plan.points[0])}
    call = {"function": "nanobench.worker.audit:publish", "arguments": arguments}
    try:
        found = executor.run({"call": call}, run.scratch / method, run.logs / f"{method}.log", timeout_s, lambda report: None)
    finally:
        executor.close()
    return {"skipped": f"{found.status}: {found.reason}"} if found.record is None else found.record
