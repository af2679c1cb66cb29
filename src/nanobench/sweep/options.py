"""What a user can request: every option once, with its default, its help and its checks."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

from nanobench import errors, registry
from nanobench.errors import UserError
from nanobench.schema import (
    ATTENTIONS,
    BYTES,
    CHECKPOINTING,
    COMPILE_MODES,
    CROSS_ENTROPIES,
    DTYPES,
    IDS,
    KV_CACHES,
    OPTIMIZER_KERNELS,
    PARAM_DTYPES,
    PHASES,
    SYNTHETIC,
    WEIGHTS,
    option,
)
from nanobench.sweep.axes import AXES, Axes, check_names, read_axes
from nanobench.sweep.executors import LOCAL, is_local
from nanobench.sweep.values import MOST, read_memory_limit, read_minutes, read_positive, read_share

MODES = ("train", "generate")
ISOLATIONS = ("forkserver", "spawn")
CALIBRATIONS = ("auto", "fresh", "off")
MOST_SEED = 2**31 - 1
TOKENIZERS = f"{BYTES}, {IDS} (the file has token ids), paths of tokenizer.json files, or names of tiktoken encodings"
NOT_IN_TRAINING = {
    "dtype": {"float16": "its gradients vanish without loss scaling; choose bfloat16"},
    "compile_mode": {"freeze": "it treats the weights as constants; choose default"},
}
"""Field -> value -> why training can't use it."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What `auto` means on one kind of device."""

    model: str
    dtype: str
    target_ci: float
    max_seconds: float
    new_tokens: int
    seq_len: int


CPU = Defaults(model="gpt2-mini", dtype="float32", target_ci=0.05, max_seconds=4.0, new_tokens=16, seq_len=256)
CUDA = Defaults(model="gpt2", dtype="bfloat16", target_ci=0.01, max_seconds=20.0, new_tokens=200, seq_len=1024)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How a plan's trials are timed, with nothing left to decide."""

    target_ci: float
    max_seconds: float
    launches: int = 1
    trace: bool = False
    nvtx: bool = False
    check: bool = True
    extra_launches: bool = False
    max_minutes: float | None = None
    adaptive: bool = False
    calibration: str = "off"
    sustain: bool = True


BOTH = "off,default"
"""The compile modes of --compile."""
WHAT, HOW, MEASURING, OUTPUT = "What is run", "How it is run", "How it is measured", "Output"
"""Panels of --help."""


def listed(default: str, help: str, panel: str) -> Any:
    """An option that takes a LIST of values, each an axis of the sweep."""
    return option(default, help, panel, "LIST")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command that runs a model accepts. A LIST is 1,4,8 or a range: 1-64*2 doubles, 8-64+8 steps."""

    gate_only: ClassVar[bool] = True
    """whether trials pass the correctness gates and time nothing"""
    defaults: ClassVar[Mapping[str, Defaults]] = {"cpu": CPU, "cuda": CUDA}
    """kind of device -> what `auto` means there"""

    model: str = listed("auto", "built-in models or dotted paths like my_pkg.my_mod:build", WHAT)
    batch: str = listed("1,4,8,16,32,64,93", "batch sizes; auto: the batch that nanobench autobatch recommends", WHAT)
    window: str = listed(
        "auto", "positions that a token attends to at most, or none; auto: as the model has it. For built-in models", WHAT
    )
    dtype: str = listed("auto", ", ".join(DTYPES), WHAT)
    device: str = option("auto", "cpu, cuda or cuda:INDEX", WHAT)
    threads: str = listed("auto", "CPU thread counts; auto: every core that the process may use, divided among its ranks", WHAT)
    compile_mode: str = listed("off", ", ".join(COMPILE_MODES), HOW)
    compile: bool = option(False, "the same as --compile-mode off,default", HOW)
    attention: str = listed("auto", f"{', '.join(ATTENTIONS)}; auto lets torch choose", HOW)
    axis: list[str] = option((), "values of any field that is an axis, like batch_size=1,4; repeatable", HOW, "FIELD=LIST")
    memory_limit: str = option(
        "auto", "memory limit per worker, like 4GiB, or none; auto: the available memory on a CPU, none on a GPU", MEASURING
    )
    timeout: float = option(1800.0, "stop a worker after this many seconds", MEASURING)
    isolation: str = option("forkserver", "how a worker starts: forkserver or spawn", MEASURING)
    seed: int = option(0, "seed of weights, prompts and the order of arms and points", MEASURING)
    yes: bool = option(False, "measure a plan of more than 1,000 cells or trials, or of more than 24 hours", MEASURING)
    json: bool = option(False, "print one JSON document as the last line", OUTPUT)

    @cached_property
    def axes(self) -> Axes:
        """Field of a point or an arm -> the values requested. Raises UserError for what is wrong."""
        given = {name: getattr(self, name) for name in AXES if hasattr(self, name)}
        if self.compile:
            if self.compile_mode not in ("off", BOTH):
                fix = f"drop it, or write --compile-mode off,{self.compile_mode}"
                raise UserError(f"--compile is the same as --compile-mode {BOTH}, and --compile-mode is given; {fix}")
            given["compile_mode"] = BOTH
        return read_axes(given, self.axis)

    def validate(self) -> None:
        """Raises UserError for everything that is wrong on any machine."""
        check_names(self.axes)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise errors.unknown("device", self.device, ("auto", "cpu", "cuda", "cuda:0"))
        if self.isolation not in ISOLATIONS:
            raise errors.unknown("isolation", self.isolation, ISOLATIONS)
        if not 0 < self.timeout <= MOST:
            raise UserError(f"--timeout {self.timeout:g} is not between 0 and {MOST:,}; give seconds, like 600")
        if not 0 <= self.seed <= MOST_SEED:
            raise UserError(f"--seed {self.seed} is not between 0 and {MOST_SEED}; give another one")
        read_memory_limit(self.memory_limit, None)

    def kl_limit(self) -> float | None:
        """The largest mean KL divergence of a lossy arm, in nats; None for any."""
        return None

    def timing(self, defaults: Defaults) -> Timing:
        """How trials are timed on a device with these defaults: here one launch, of gates only."""
        return Timing(target_ci=defaults.target_ci, max_seconds=defaults.max_seconds)


@dataclass(frozen=True, kw_only=True)
class GateOptions(Options):
    """What commands accept that generate text and compare it with the reference in the gate."""

    prompt_len: str = listed("50", "prompt lengths in tokens", WHAT)
    new_tokens: str = listed("auto", "output lengths in tokens", WHAT)
    prompts: str = listed(SYNTHETIC, f"{SYNTHETIC} (random tokens), or paths of files with text or token ids", WHAT)
    tokenizer: str = listed(BYTES, f"what reads the files of --prompts: {TOKENIZERS}", WHAT)
    shared_prompt: str = listed("off", "off, on: all rows of a call have the same prompt", WHAT)
    engine: str = listed("uncached,cached", "engines; the first is the reference of every speedup", HOW)
    draft_len: str = listed(
        "auto", "tokens that speculative decoding drafts before a pass of the model; auto: as the engine has it", HOW
    )
    sampler: str = listed("greedy", "samplers", HOW)
    weights: str = listed("float", f"{', '.join(WEIGHTS)}: weights of matmuls in the dtype, or quantised; a lossy arm", HOW)
    kv_cache: str = listed("float", f"{', '.join(KV_CACHES)}: the KV cache in the dtype, or quantised; a lossy arm", HOW)
    max_kl: str = option(
        "none", "nats: a lossy arm whose mean KL from the float model is above this is wrong; none: no limit", MEASURING
    )

    def validate(self) -> None:
        """See Options.validate."""
        super().validate()
        self.kl_limit()

    def kl_limit(self) -> float | None:
        """See Options.kl_limit."""
        return None if self.max_kl == "none" else read_positive("max-kl", self.max_kl, 0.01)


@dataclass(frozen=True, kw_only=True)
class TimedOptions(Options):
    """What commands accept that measure over several launches and keep the results of the run."""

    gate_only: ClassVar[bool] = False

    executor: str = option(
        LOCAL, "where trials run: local, slurm or ray, with arguments like slurm:partition=gpu,gres=gpu:1", MEASURING
    )
    launches: int = option(5, "fresh processes per point: the statistical unit", MEASURING)
    target_ci: str = option(
        "auto", "half-width of an interval, like 2%: there a launch may stop, and above it a figure is imprecise", MEASURING
    )
    max_seconds: str = option("auto", "timed seconds per launch of a point", MEASURING)
    max_minutes: str = option(
        "auto",
        "start no launch after this many minutes; the first round always finishes; auto: the planned launches, and up to half"
        " of their time again for disturbed or imprecise points; planned: the planned launches alone",
        MEASURING,
    )
    adaptive: bool = option(
        False, "batch sizes are candidates: measure the ends, then where the curve bends, and interpolate the others", MEASURING
    )
    quick: bool = option(False, "runs one launch; intervals then cover variation within one process only", MEASURING)
    sustain: bool = option(
        False, "with --quick: run each arm for some seconds more, for GPU utilization and energy; CUDA only", MEASURING
    )
    trace: bool = option(False, "keep a Chrome trace of a few steps of every arm in DIR/traces", MEASURING)
    nvtx: bool = option(False, "name the gate, the warm-up and the timed repetitions for Nsight; CUDA only", MEASURING)
    no_check: bool = option(False, "do not check the outputs of timed calls after each launch", MEASURING)
    calibration: str = option(
        "off", "limits used by predictions: auto (measured once, checked in every round), fresh or off", MEASURING
    )
    wait: bool = option(False, "wait while another run holds the device, instead of exiting", MEASURING)
    out: str = option("", "folder of this run, or a URI like s3://bucket/run; default: a new folder in results/", OUTPUT, "DIR")
    resume: str = option("", "folder of an interrupted run: measure what is missing there", OUTPUT, "DIR")
    dry_run: bool = option(False, "print the plan and stop", OUTPUT)
    no_plot: bool = option(False, "draw no plots", OUTPUT)
    quiet: bool = option(False, "print the result alone: no plan and no progress", OUTPUT)

    def validate(self) -> None:
        """See Options.validate."""
        super().validate()
        registry.find("executors", self.executor)
        if ":" in self.device and not is_local(self):
            raise UserError(f"--device {self.device} is a GPU of this machine; choose cuda with --executor {self.executor}")
        if self.launches < 1:
            raise UserError(f"--launches {self.launches} is below 1; give 1 or more (5 by default)")
        if self.calibration not in CALIBRATIONS:
            raise errors.unknown("calibration", self.calibration, CALIBRATIONS)
        self.timing(CPU)

    def timing(self, defaults: Defaults) -> Timing:
        """See Options.timing."""
        return Timing(
            target_ci=read_share("target-ci", self.target_ci, defaults.target_ci),
            max_seconds=read_positive("max-seconds", self.max_seconds, defaults.max_seconds),
            launches=1 if self.quick else self.launches,
            trace=self.trace,
            nvtx=self.nvtx,
            check=not self.no_check,
            extra_launches=self.max_minutes != "planned" and not self.quick,
            max_minutes=self.limit_minutes(),
            adaptive=self.adaptive,
            calibration=self.calibration,
            sustain=self.sustain or not self.quick,
        )

    def limit_minutes(self) -> float | None:
        """The minutes of --max-minutes; None for a word."""
        return None if self.max_minutes in ("auto", "planned") else read_minutes(self.max_minutes, words="auto, planned or ")


def same(kind: type, name: str, help: str = "", default: Any = None) -> Any:
    """An option as another command has it, for one value; `help` where that of a LIST does not fit, and another default."""
    of = next(each for each in fields(kind) if each.name == name)
    return option(of.default if default is None else default, help or of.metadata["help"], of.metadata["panel"])


@dataclass(frozen=True, kw_only=True)
class SweepOptions(TimedOptions, GateOptions):
    """What a sweep over generation accepts."""

    calibration: str = same(TimedOptions, "calibration", default="auto")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TimedOptions):
    """What a sweep over training accepts."""

    defaults: ClassVar[Mapping[str, Defaults]] = {"cpu": replace(CPU, model="gpt2-char"), "cuda": CUDA}

    batch: str = listed("4,8", "batch sizes: rows per rank and micro-batch; auto: what nanobench autobatch recommends", WHAT)
    dtype: str = listed("auto", "float32, bfloat16 (autocast over float32 weights, unless --param-dtype says else)", WHAT)
    compile_mode: str = listed("off", ", ".join(name for name in COMPILE_MODES if name != "freeze"), HOW)
    seq_len: str = listed("auto", "tokens per full row", WHAT)
    phase: str = listed("pretrain", ", ".join(PHASES), WHAT)
    data: str = listed(SYNTHETIC, f"{SYNTHETIC}, or paths of files with text or token ids", WHAT)
    tokenizer: str = listed(BYTES, f"what reads the files of --data: {TOKENIZERS}", WHAT)
    optimizer: str = listed("adamw", "optimizers", WHAT)
    grad_accum: str = listed("1", "micro-batches whose gradients are accumulated per step", WHAT)
    nproc: str = listed("1", "ranks that train together, each with its own batch (DDP)", WHAT)
    checkpointing: str = listed("off", f"{', '.join(CHECKPOINTING)}: activations are kept or recomputed", HOW)
    cross_entropy: str = listed(
        "full", f"{', '.join(CROSS_ENTROPIES)}: logits of the whole batch, or of an eighth at a time", HOW
    )
    param_dtype: str = listed(
        "float32",
        f"{', '.join(PARAM_DTYPES)}: of parameters, gradients and optimizer state; bfloat16 with --dtype bfloat16",
        HOW,
    )
    optimizer_kernel: str = listed("fused", ", ".join(OPTIMIZER_KERNELS), HOW)

    def validate(self) -> None:
        """See Options.validate."""
        super().validate()
        refuse_not_in_training(self.axes)


def refuse_not_in_training(axes: Axes) -> None:
    """Raises UserError for a value that training can't use."""
    for field, reasons in NOT_IN_TRAINING.items():
        for name in axes.get(field, ()):
            if name in reasons:
                raise UserError(f"{field.replace('_', ' ')} {name!r} is not for training: {reasons[str(name)]}")


def refuse_other_work(options: Any, kind: type, fix: str) -> None:
    """Raises UserError for an option of a command that its work has no use for; `kind` has the options of this work, and `fix`
    says how the other work is requested.
    """
    other, work = (SweepOptions, "generation") if kind is TrainOptions else (TrainOptions, "training")
    unused = {each.name for each in fields(other)} - {each.name for each in fields(kind)}
    if name := next((name for name in changed_options(options) if name in unused), None):
        raise UserError(f"--{name.replace('_', '-')} is for {work}; leave it out, or measure {work} {fix}")


def help_of(kind: type, name: str) -> str:
    """The help of an option."""
    return str(next(each for each in fields(kind) if each.name == name).metadata["help"])


def changed_options(options: Any) -> dict[str, object]:
    """The options that differ from their defaults: what run.json keeps of the request."""
    defaults = type(options)()
    return {name: value for name, value in asdict(options).items() if value != getattr(defaults, name)}
