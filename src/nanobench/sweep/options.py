"""What a user can ask for: every option once, with its default and its help, for the command line and TOML files alike."""

import re
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nanobench import errors
from nanobench.errors import UserError
from nanobench.schema import ATTENTIONS, CHECKPOINTING, COMPILE_MODES, DTYPES, OPTIMIZER_KERNELS, PHASES, SYNTHETIC, Arm, Point

AXES = {
    "model": "model",
    "batch": "batch_size",
    "dtype": "dtype",
    "threads": "threads",
    "prompt_len": "prompt_len",
    "new_tokens": "new_tokens",
    "engine": "engine",
    "compile_mode": "compile_mode",
    "attention": "attention",
    "sampler": "sampler",
    "seq_len": "seq_len",
    "phase": "phase",
    "data": "data",
    "tokenizer": "tokenizer",
    "optimizer": "optimizer",
    "grad_accum": "grad_accum",
    "nproc": "world_size",
    "checkpointing": "checkpointing",
    "optimizer_kernel": "optimizer_kernel",
}
"""Option -> the field of Point or Arm whose values it lists."""
AUTOMATIC = ("model", "dtype", "threads", "batch_size", "new_tokens", "attention", "seq_len")
"""Fields whose value `auto` leaves to the device."""
KINDS: dict[str, Any] = {field.name: field.type for config_class in (Point, Arm) for field in fields(config_class)}
MODES = ("train", "generate")
ISOLATIONS = ("forkserver", "spawn")
CALIBRATIONS = ("auto", "fresh", "off")
MOST_VALUES = 1000
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def option(default: Any, help: str, panel: str) -> Any:
    """A field that the command line shows under `panel`."""
    return field(default=default, metadata={"help": help, "panel": panel})


WHAT, HOW, MEASURING, OUTPUT = "What is run", "How it is run", "How it is measured", "Output"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command that runs a model understands. A LIST is 1,4,8 or a range: 1-64*2 doubles, 8-64+8 steps."""

    model: str = option("auto", "LIST of built-in models or dotted paths like my_pkg.my_mod:build", WHAT)
    batch: str = option("1,4,8,16,32,64,93", "LIST of batch sizes; auto is what nanobench autobatch finds", WHAT)
    dtype: str = option("auto", f"LIST of {', '.join(DTYPES)}", WHAT)
    device: str = option("auto", "cpu, cuda or cuda:INDEX", WHAT)
    threads: str = option(
        "auto", "LIST of CPU thread counts; auto is every core that the process may use, shared by its ranks", WHAT
    )
    compile_mode: str = option("off", f"LIST of {', '.join(COMPILE_MODES)}", HOW)
    compile: bool = option(False, "the same as --compile-mode off,default", HOW)
    attention: str = option("auto", f"LIST of {', '.join(ATTENTIONS)}; auto is torch's choice", HOW)
    axis: list[str] = option((), "FIELD=LIST for any column that is an axis, like batch_size=1,4; may be given again", HOW)
    memory_limit: str = option(
        "auto", "most memory of a worker, like 4GiB; auto is what is available, on a CPU; or none", MEASURING
    )
    timeout: float = option(1800.0, "seconds after its start until a worker is stopped", MEASURING)
    isolation: str = option("forkserver", "how a worker starts: forkserver or spawn", MEASURING)
    seed: int = option(0, "seed of weights, prompts and orders", MEASURING)
    json: bool = option(False, "print one JSON document as the last line", OUTPUT)


@dataclass(frozen=True, kw_only=True)
class GateOptions(Options):
    """What generates, and is held against the gate."""

    prompt_len: str = option("50", "LIST of prompt lengths in tokens", WHAT)
    new_tokens: str = option("auto", "LIST of output lengths in tokens", WHAT)
    engine: str = option("uncached,cached", "LIST of engines; the first is the one that speed-ups refer to", HOW)
    sampler: str = option("greedy", "LIST of samplers", HOW)


@dataclass(frozen=True, kw_only=True)
class TimedOptions(Options):
    """What every command understands that measures over several launches and leaves a run behind."""

    launches: int = option(5, "fresh processes per point: the statistical unit", MEASURING)
    target_ci: str = option("auto", "half-width of a ratio's interval at which a launch may stop, like 0.01", MEASURING)
    max_seconds: str = option("auto", "timed seconds per launch of a point", MEASURING)
    quick: bool = option(False, "one launch; the intervals then say 'within one process'", MEASURING)
    trace: bool = option(False, "keep a Chrome trace of a few steps of every arm in DIR/traces", MEASURING)
    nvtx: bool = option(False, "name gate, warm-up and what is timed for Nsight; CUDA only", MEASURING)
    wait: bool = option(False, "wait while another sweep holds the device, instead of refusing", MEASURING)
    out: str = option("", "folder of this run; default is a new one in results/", OUTPUT)
    resume: str = option("", "folder of an interrupted run: run what is missing there", OUTPUT)
    dry_run: bool = option(False, "print the plan and stop", OUTPUT)
    no_plot: bool = option(False, "draw no plots", OUTPUT)


@dataclass(frozen=True, kw_only=True)
class SweepOptions(TimedOptions, GateOptions):
    """What a sweep over generation understands."""

    calibration: str = option(
        "auto", "limits behind predictions: auto (measured once, checked every round), fresh or off", MEASURING
    )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TimedOptions):
    """What a sweep over training understands."""

    batch: str = option("4,8", "LIST of batch sizes, rows of a rank at a time; auto is what nanobench autobatch finds", WHAT)
    dtype: str = option("auto", "LIST of float32, bfloat16 (autocast over float32 weights)", WHAT)
    compile_mode: str = option("off", f"LIST of {', '.join(name for name in COMPILE_MODES if name != 'freeze')}", HOW)
    seq_len: str = option("auto", "LIST of tokens per full row", WHAT)
    phase: str = option("pretrain", f"LIST of {', '.join(PHASES)}", WHAT)
    data: str = option(SYNTHETIC, f"LIST of {SYNTHETIC} or paths of texts", WHAT)
    tokenizer: str = option("bytes", "LIST of bytes or names of tiktoken's encodings, for texts", WHAT)
    optimizer: str = option("adamw", "LIST of optimizers", WHAT)
    grad_accum: str = option("1", "LIST of batches whose gradients are added up per step", WHAT)
    nproc: str = option("1", "LIST of ranks that train together, each with its own batch (DDP)", WHAT)
    checkpointing: str = option("off", f"LIST of {', '.join(CHECKPOINTING)}: activations kept or computed again", HOW)
    optimizer_kernel: str = option("fused", f"LIST of {', '.join(OPTIMIZER_KERNELS)}", HOW)


def same(kind: type, name: str) -> Any:
    """An option as another command has it, for one value."""
    of = next(each for each in fields(kind) if each.name == name)
    return option(of.default, of.metadata["help"].removeprefix("LIST of "), of.metadata["panel"])


@dataclass(frozen=True, kw_only=True)
class AutobatchOptions:
    """What autobatch understands: one point without its batch size, and one arm."""

    mode: str = option("train", f"what the batch is for: {' or '.join(MODES)}", WHAT)
    model: str = same(Options, "model")
    dtype: str = same(Options, "dtype")
    device: str = same(Options, "device")
    threads: str = same(Options, "threads")
    seq_len: str = same(TrainOptions, "seq_len")
    phase: str = same(TrainOptions, "phase")
    optimizer: str = same(TrainOptions, "optimizer")
    nproc: str = same(TrainOptions, "nproc")
    prompt_len: str = same(GateOptions, "prompt_len")
    new_tokens: str = same(GateOptions, "new_tokens")
    engine: str = option("cached", "the engine, where something is generated", HOW)
    sampler: str = same(GateOptions, "sampler")
    compile_mode: str = same(Options, "compile_mode")
    attention: str = same(Options, "attention")
    checkpointing: str = same(TrainOptions, "checkpointing")
    optimizer_kernel: str = same(TrainOptions, "optimizer_kernel")
    margin: float = option(0.85, "share of the largest batch that fits which is recommended", MEASURING)
    total_batch: int = option(0, "rows of an optimizer step, which the batch must divide; 0 for any", MEASURING)
    most: int = option(4096, "the largest batch that is tried", MEASURING)
    max_seconds: float = option(600.0, "seconds after which no further batch is tried", MEASURING)
    memory_limit: str = same(Options, "memory_limit")
    timeout: float = same(Options, "timeout")
    seed: int = same(Options, "seed")
    fresh: bool = option(False, "look again, whatever was found before", MEASURING)
    wait: bool = same(TimedOptions, "wait")
    out: str = option("", "DIR for autobatch.json and the figure; default is none", OUTPUT)
    json: bool = same(Options, "json")

    def as_sweep(self) -> Options:
        """The sweep over this one point and arm."""
        kind = TrainOptions if self.mode == "train" else SweepOptions
        shared = {each.name for each in fields(kind)} & {each.name for each in fields(self)} - {"max_seconds"}
        return kind(**{name: getattr(self, name) for name in shared}, batch="auto")


def read_axes(options: Options) -> dict[str, list[Any]]:
    """Field of a point or an arm -> the values asked for."""
    flags = {target: "--" + name.replace("_", "-") for name, target in AXES.items()}
    asked = {target: getattr(options, name) for name, target in AXES.items() if hasattr(options, name)}
    if options.compile and options.compile_mode == "off":
        asked["compile_mode"] = "off,default"
    for text in options.axis:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UserError(f"--axis {text!r} has no '='; write --axis FIELD=LIST, like --axis batch_size=1,4,8")
        if name not in asked:
            raise errors.unknown("field", name, asked)
        asked[name], flags[name] = values, f"--axis {name}"
    return {name: read_list(flags[name], text, KINDS[name], name in AUTOMATIC) for name, text in asked.items()}


def read_list(name: str, text: str, kind: type, automatic: bool = False) -> list[Any]:
    """The values of a LIST, in the order given, each once. Raises UserError with the part that is wrong."""
    values: list[Any] = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            raise UserError(f"{name} {text!r} holds an empty value; write values between commas, like 1,4,8")
        if part == "auto" and not automatic:
            raise UserError(f"{name} has no automatic value (auto works for: {', '.join(AUTOMATIC)}); write the values")
        values.extend([part] if kind is str or part == "auto" else read_numbers(name, part))
    return list(dict.fromkeys(values))


def read_numbers(name: str, part: str) -> list[int]:
    """One part of a LIST of whole numbers above 0: a number, a doubling range 1-64*2, or a stepping range 8-64+8."""
    match = re.fullmatch(r"(\d+)(?:-(\d+)([*+])(\d+))?", part)
    if not match:
        raise UserError(
            f"{name} {part!r} is no whole number; write 4, or 1,4,8, or a range: 1-64*2 (doubling), 8-64+8 (stepping)"
        )
    first, last, sign, by = match.groups()
    value = int(first)
    numbers: list[int] = []
    if value < 1:
        raise UserError(f"{name} {part} is below 1; give whole numbers from 1 up")
    if last is None:
        return [value]
    if int(by) < (2 if sign == "*" else 1) or int(last) < value:
        raise UserError(f"{name} {part!r} never ends or is empty; write a rising range like 1-64*2 or 8-64+8")
    while value <= int(last) and len(numbers) <= MOST_VALUES:
        numbers.append(value)
        value = value * int(by) if sign == "*" else value + int(by)
    if len(numbers) > MOST_VALUES:
        raise UserError(f"{name} {part!r} holds more than {MOST_VALUES} values; take larger steps")
    return numbers


def read_positive(name: str, text: str, auto: float) -> float:
    """A number above 0, or what `auto` means."""
    try:
        value = auto if text == "auto" else float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UserError(f"--{name} {text!r} is not a number above 0; write one, like {auto:g}")
    return value


def read_memory_limit(text: str, auto: int | None) -> int | None:
    """Bytes of 4GiB, 500MB and the like; None for 'none'."""
    if text == "auto":
        return auto
    if text == "none":
        return None
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([A-Za-z]*)", text)
    limit = int(float(match[1]) * UNITS.get(match[2].upper(), 0)) if match else 0
    if not limit:
        raise UserError(f"--memory-limit {text!r} is no size; write 4GiB, 500MiB, or none")
    return limit


def as_asked(options: Options) -> dict[str, Any]:
    """The options that differ from their defaults: what run.json keeps of the request."""
    plain = type(options)()
    return {name: value for name, value in asdict(options).items() if value != getattr(plain, name)}


def from_toml(path: Path, kind: type, command: str) -> dict[str, Any]:
    """The options in a TOML file. Raises UserError for whatever is not an option, and for a `command` that is another."""
    settings = read_toml(path)
    named = settings.pop("command", command)
    if named != command:
        raise UserError(f"{path} is for {named}, not for {command}; run it with: nanobench run {path}")
    known = {field.name: field for field in fields(kind)}
    options = {}
    for key, value in settings.items():
        name = key.replace("-", "_")
        if name not in known:
            raise errors.unknown(f"option in {path}", key, [name.replace("_", "-") for name in known])
        if name in options:
            raise UserError(f"{path} gives {name.replace('_', '-')!r} twice; keep one")
        options[name] = as_typed(path, key, value, type(known[name].default))
    return options


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary. Raises UserError where it is missing or broken."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; nanobench list configs names those that come along"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None


def as_typed(path: Path, key: str, value: Any, kind: type) -> Any:
    """A TOML value as its option takes it: a TOML list is a LIST, a number may stand for its text."""
    if kind is tuple:
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if kind is str and isinstance(value, list):
        return ",".join(str(item) for item in value)
    if kind is str and not isinstance(value, bool | dict):
        return str(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{path}: {key} = {value!r} is no {kind.__name__}; write a {kind.__name__}")
    return value
