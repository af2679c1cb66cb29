"""What `nanobench autobatch` accepts."""

from dataclasses import dataclass, fields

from nanobench import errors
from nanobench.errors import UserError
from nanobench.schema import option
from nanobench.sweep.options import (
    HOW,
    MEASURING,
    MODES,
    OUTPUT,
    WHAT,
    GateOptions,
    Options,
    SweepOptions,
    TimedOptions,
    TrainOptions,
    refuse_other_work,
    same,
)
from nanobench.sweep.values import MOST


@dataclass(frozen=True, kw_only=True)
class AutobatchOptions:
    """What autobatch accepts: one point without its batch size, and one arm."""

    mode: str = option("train", f"what the batch is for: {' or '.join(MODES)}", WHAT)
    model: str = same(Options, "model", "a built-in model or a dotted path like my_pkg.my_mod:build")
    dtype: str = same(Options, "dtype")
    device: str = same(Options, "device")
    threads: str = same(Options, "threads", "CPU threads; auto: every core that the process may use, divided among its ranks")
    seq_len: str = same(TrainOptions, "seq_len", "tokens per full row, for --mode train")
    phase: str = same(TrainOptions, "phase")
    optimizer: str = same(TrainOptions, "optimizer", "the optimizer, for --mode train")
    nproc: str = same(TrainOptions, "nproc")
    prompt_len: str = same(GateOptions, "prompt_len", "prompt length in tokens, for --mode generate")
    new_tokens: str = same(GateOptions, "new_tokens", "output length in tokens, for --mode generate")
    engine: str = option("cached", "the engine, for --mode generate", HOW)
    sampler: str = same(GateOptions, "sampler", "the sampler, for --mode generate")
    compile_mode: str = same(Options, "compile_mode")
    attention: str = same(Options, "attention")
    checkpointing: str = same(TrainOptions, "checkpointing")
    cross_entropy: str = same(TrainOptions, "cross_entropy")
    param_dtype: str = same(TrainOptions, "param_dtype")
    optimizer_kernel: str = same(TrainOptions, "optimizer_kernel")
    margin: float = option(0.85, "recommended share of the largest batch that fits", MEASURING)
    total_batch: int = option(0, "rows per optimizer step, a multiple of the batch; 0: any", MEASURING)
    most: int = option(4096, "the largest batch to try", MEASURING)
    max_seconds: float = option(600.0, "seconds after which no further batch is tried", MEASURING)
    memory_limit: str = same(Options, "memory_limit")
    timeout: float = same(Options, "timeout")
    seed: int = same(Options, "seed")
    fresh: bool = option(False, "ignore the cached answer and search again", MEASURING)
    wait: bool = same(TimedOptions, "wait")
    out: str = option("", "folder for autobatch.json and the figure; default: none are written", OUTPUT, "DIR")
    json: bool = same(Options, "json")

    def validate(self) -> None:
        """Raises UserError for an invalid mode or number of the search; `as_sweep().validate()` checks the other options."""
        if self.mode not in MODES:
            raise errors.unknown("mode", self.mode, MODES)
        if not 0 < self.margin <= 1:
            raise UserError(f"--margin {self.margin:g} is not above 0 and at most 1; give a share, like 0.85")
        if not 1 <= self.most <= MOST:
            raise UserError(f"--most {self.most} is not between 1 and {MOST:,}; give the largest batch to try, like 4096")
        if not 0 <= self.total_batch <= MOST:
            fix = "give rows of an optimizer step, like 512, or 0"
            raise UserError(f"--total-batch {self.total_batch} is not between 0 and {MOST:,}; {fix}")
        if not 0 < self.max_seconds <= MOST:
            raise UserError(f"--max-seconds {self.max_seconds:g} is not between 0 and {MOST:,}; give seconds, like 600")

    def as_sweep(self) -> Options:
        """The sweep over this one point and arm."""
        kind = TrainOptions if self.mode == "train" else SweepOptions
        refuse_other_work(self, kind, "with --mode generate" if self.mode == "train" else "with --mode train")
        shared = {each.name for each in fields(kind)} & {each.name for each in fields(self)} - {"max_seconds"}
        return kind(**{name: getattr(self, name) for name in shared}, batch="auto")
