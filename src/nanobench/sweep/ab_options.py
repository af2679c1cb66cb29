"""What ab and bisect accept. Nothing heavy is imported here, so that --help is quick."""

import math
from dataclasses import dataclass, fields

from nanobench.errors import UserError
from nanobench.schema import argument, option
from nanobench.sweep.options import (
    HOW,
    MEASURING,
    WHAT,
    GateOptions,
    Options,
    SweepOptions,
    TimedOptions,
    TrainOptions,
    listed,
    refuse_other_work,
    same,
)
from nanobench.sweep.side import ARM_FIELDS, Side
from nanobench.sweep.values import read_minutes, read_share

MINUTES = "10"
"""of a comparison, where --max-minutes does not say more"""
SECONDS = "3"
"""timed per launch of a point, where --max-seconds does not say more. To start both sides takes longer, and ratios vary between
launches too, so more seconds would not pay."""


@dataclass(frozen=True, kw_only=True)
class AbOptions:
    """What ab accepts: two sides, and the shape of the work that both do."""

    base: str = argument("", "a git revision, . for the files as they are now, a model or an engine", "BASE")
    new: str = argument("", "the same for the side that BASE is compared with", "NEW")
    train: bool = option(False, "compare training steps instead of generation", WHAT)
    model: str = same(Options, "model", "the model of both sides: a built-in model or a dotted path like my_pkg.my_mod:build")
    batch: str = listed("8", "batch sizes: an answer for each, and one for all", WHAT)
    dtype: str = same(Options, "dtype")
    device: str = same(Options, "device")
    threads: str = same(Options, "threads")
    prompt_len: str = same(GateOptions, "prompt_len", "prompt lengths in tokens")
    new_tokens: str = same(GateOptions, "new_tokens", "output lengths in tokens")
    shared_prompt: str = same(GateOptions, "shared_prompt")
    seq_len: str = same(TrainOptions, "seq_len", "with --train: tokens per full row")
    phase: str = same(TrainOptions, "phase", "with --train: pretrain, sft-dynamic or sft-padded")
    data: str = same(TrainOptions, "data", "with --train: synthetic, or the path of a text")
    tokenizer: str = same(TrainOptions, "tokenizer")
    optimizer: str = same(TrainOptions, "optimizer", "with --train: the optimizer")
    engine: str = option("cached", "the engine of both sides", HOW)
    sampler: str = same(GateOptions, "sampler", "the sampler of both sides")
    compile_mode: str = same(Options, "compile_mode", "the compile mode of both sides")
    attention: str = same(Options, "attention", "the attention kernel of both sides")
    weights: str = same(GateOptions, "weights", "the weights of both sides: float, int8 or int4")
    kv_cache: str = same(GateOptions, "kv_cache", "the KV cache of both sides: float or int8")
    base_arg: list[str] = option((), "what differs on the side of BASE, like compile_mode=off; repeatable", HOW, "FIELD=VALUE")
    new_arg: list[str] = option(
        (), "what differs on the side of NEW, like compile_mode=default; repeatable", HOW, "FIELD=VALUE"
    )
    base_python: str = option("", "the Python of BASE, for example with another torch", HOW, "PATH")
    new_python: str = option("", "the Python of NEW", HOW, "PATH")
    threshold: str = option("2%", "a difference below this does not matter", MEASURING)
    allow_different: bool = option(False, "compare speed although the outputs differ", MEASURING)
    max_seconds: str = option(SECONDS, "timed seconds per launch of a point", MEASURING)
    max_minutes: str = option(MINUTES, "minutes after which no launch begins", MEASURING)
    memory_limit: str = same(Options, "memory_limit", "memory limit of both sides together, like 4GiB, or none")
    timeout: float = same(Options, "timeout")
    isolation: str = same(Options, "isolation")
    seed: int = same(Options, "seed")
    max_kl: str = same(GateOptions, "max_kl")
    yes: bool = same(Options, "yes")
    no_check: bool = same(TimedOptions, "no_check")
    wait: bool = same(TimedOptions, "wait")
    out: str = same(TimedOptions, "out")
    json: bool = same(Options, "json")

    def sides(self) -> tuple[Side, Side]:
        """BASE and NEW. Raises UserError where one is missing or names nothing."""
        if not self.base or not self.new:
            raise UserError(
                "ab compares two sides; write: nanobench ab BASE NEW, like nanobench ab main . --model my_gpt:build"
            )
        base, new = Side.of(self.base, self.base_arg, self.base_python), Side.of(self.new, self.new_arg, self.new_python)
        return (base, new) if self.model == "auto" else (base.beside(new, self.model), new.beside(base, self.model))

    def as_sweep(self) -> TimedOptions:
        """The sweep over the points, with the arm of both sides. Raises UserError where it has several arms."""
        kind = TrainOptions if self.train else SweepOptions
        shared = {each.name for each in fields(kind)} & {each.name for each in fields(self)}
        given = {name: getattr(self, name) for name in shared}
        refuse_other_work(self, kind, "without --train" if self.train else "with --train")
        made = TrainOptions(**given) if self.train else SweepOptions(**given, calibration="off")
        for name in (*ARM_FIELDS, "model"):
            if len(made.axes.get(name, ())) > 1:
                raise UserError(f"ab compares one arm on each side; give one {name}, or use --base-arg and --new-arg")
        return made

    def refuse(self) -> None:
        """Raises UserError for everything that is wrong whatever the machine is."""
        made = self.as_sweep()
        made.validate()
        self.threshold_log()
        self.limit_s()
        kind = "training" if self.train else "generation"
        for side in self.sides():
            side.refuse_other_fields(kind, made.axes)

    def limit_s(self) -> float:
        """Seconds after which no launch begins."""
        return 60 * read_minutes(self.max_minutes)

    def threshold_log(self) -> float:
        """The threshold as a log ratio."""
        return math.log1p(read_share("threshold", self.threshold))


@dataclass(frozen=True, kw_only=True)
class BisectOptions(AbOptions):
    """What bisect accepts: what ab does, over the commits between two revisions."""

    base: str = argument("", "a revision that is fast", "GOOD")
    new: str = argument("", "a later revision that is slow", "BAD")
    max_minutes: str = option(MINUTES, "minutes of one comparison after which no launch begins", MEASURING)
    budget: str = option("120", "minutes after which no comparison begins", MEASURING)

    def refuse(self) -> None:
        """Raises UserError for everything that is wrong whatever the machine is."""
        super().refuse()
        read_minutes(self.budget, "budget")
