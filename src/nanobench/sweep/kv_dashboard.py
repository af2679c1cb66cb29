"""What kv-dashboard shows: the request, and what a worker recorded for it."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from nanobench.errors import UserError, unknown
from nanobench.records import JsonObject
from nanobench.schema import BYTES, Point, option
from nanobench.sweep.options import OUTPUT, WHAT, GateOptions, Options, TimedOptions, same
from nanobench.sweep.sample import SampleOptions
from nanobench.sweep.values import read_list

if TYPE_CHECKING:
    from nanobench.sweep.executors.base import Executor

KINDS = ("attention", "memory", "batch")
FORMATS = ("gif", "html")
MOST_FRAMES = 200
PROMPT = "To be, or not to be"


@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    """What kv-dashboard accepts: a model, a prompt, and what is shown of them."""

    model: str = same(Options, "model", "a built-in model or a dotted path like my_pkg.my_mod:build")
    prompt: str = option(PROMPT, "the text before the generated tokens", WHAT, "TEXT")
    new_tokens: int = option(24, "tokens to generate, a frame each", WHAT)
    tokenizer: str = same(SampleOptions, "tokenizer")
    dtype: str = same(Options, "dtype")
    device: str = same(Options, "device")
    seed: int = option(0, "seed of random weights", WHAT)
    what: str = option(KINDS[0], f"what is shown: {', '.join(KINDS)}", OUTPUT)
    layer: int = option(0, "with --what attention: the layer, from 0", OUTPUT)
    head: int = option(0, "with --what attention: the head, from 0", OUTPUT)
    batch: str = option("1,2,4,8,16,32,64", "with --what batch: batch sizes, a frame each", OUTPUT, "LIST")
    format: str = option(FORMATS[0], f"{' or '.join(FORMATS)}: an animated picture, or a page with a slider", OUTPUT)
    frame_s: float = option(0.4, "seconds that a frame is shown", OUTPUT)
    out: str = option("", "file to write; default: kv-dashboard-WHAT.FORMAT", OUTPUT, "FILE")
    timeout: float = same(Options, "timeout")
    wait: bool = same(TimedOptions, "wait")
    json: bool = same(Options, "json")

    def validate(self) -> None:
        """Raises UserError for what is wrong whatever the model is."""
        for name, value, choices in (("what", self.what, KINDS), ("format", self.format, FORMATS)):
            if value not in choices:
                raise unknown(name, value, choices)
        if not 1 <= self.new_tokens <= MOST_FRAMES:
            raise UserError(f"--new-tokens {self.new_tokens} is not between 1 and {MOST_FRAMES}, the most frames")
        if not 0.02 <= self.frame_s <= 60:
            raise UserError(f"--frame-s {self.frame_s} is not between 0.02 and 60; give seconds, like 0.4")
        self.sizes()
        SampleOptions(prompt=self.prompt, model=self.model, dtype=self.dtype, device=self.device).validate()

    def sizes(self) -> list[int]:
        """The batch sizes, in order."""
        return sorted({int(size) for size in read_list("batch", self.batch, int, words=())})

    def as_gates(self) -> GateOptions:
        """The same point for a plan, with a prompt of one token, because the length is not known yet."""
        own = {each.name for each in fields(self)} - {"tokenizer", "new_tokens", "batch"}
        given = {name: getattr(self, name) for name in own & {each.name for each in fields(GateOptions)}}
        return GateOptions(**given, batch="1", prompt_len="1", new_tokens=str(self.new_tokens), engine="uncached")

    @property
    def path(self) -> Path:
        """The file to write."""
        return Path(self.out or f"kv-dashboard-{self.what}.{self.format}")


@dataclass(frozen=True)
class Recording:
    """What a worker recorded."""

    point: Point
    facts: JsonObject
    """see worker/kv_dashboard.py"""


def take(options: DashboardOptions, executor: "Executor", folder: Path) -> Recording:
    """Records in a worker. Raises UserError for what the model cannot do, and where the worker dies."""
    from nanobench.sweep.session import make

    plan, _ = make(options.as_gates(), executor)
    (point,) = plan.points
    request = {
        "point": asdict(point),
        "what": options.what,
        "prompt": options.prompt,
        "tokenizer": options.tokenizer or BYTES,
        "layer": options.layer,
        "head": options.head,
        "batch": options.sizes(),
        "seed": options.seed,
        "memory_limit_bytes": plan.memory_limit_bytes,
    }
    log = folder / "kv-dashboard.log"
    result = executor.run(
        {"kv_dashboard": request}, folder / "kv-dashboard", log, options.timeout, progress=lambda report: None
    )
    if result.record is None:
        raise UserError(f"no recording of {point.model}: {result.reason}")
    if "user_error" in result.record:
        raise UserError(result.record["user_error"])
    return Recording(point, result.record)
