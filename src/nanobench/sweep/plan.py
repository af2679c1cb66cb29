"""From options to a plan: the points, the arms, and the trials round by round."""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from nanobench import errors, registry
from nanobench.errors import UserError
from nanobench.records import Description, TextTokens
from nanobench.roofline.flops import rough_flops
from nanobench.schema import (
    ATTENTIONS,
    CHECKPOINTING,
    COMPILE_MODES,
    DTYPES,
    OPTIMIZER_KERNELS,
    PHASES,
    SYNTHETIC,
    Arm,
    GPTShape,
    Plan,
    Point,
)
from nanobench.sweep.options import (
    AUTOMATIC,
    CALIBRATIONS,
    ISOLATIONS,
    Options,
    SweepOptions,
    TimedOptions,
    TrainOptions,
    read_axes,
    read_memory_limit,
    read_positive,
)

DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"model": "gpt2-mini", "dtype": "float32", "new_tokens": 16, "target_ci": 0.05, "max_seconds": 4.0},
    "cuda": {"model": "gpt2", "dtype": "bfloat16", "new_tokens": 200, "target_ci": 0.01, "max_seconds": 20.0},
}
"""What `auto` means on each kind of device."""
TRAINING_DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {**DEFAULTS["cpu"], "model": "gpt2-char", "seq_len": 256},
    "cuda": {**DEFAULTS["cuda"], "seq_len": 1024},
}
"""The same where something is trained."""
CHOICES: dict[str, tuple[str, Iterable[str]]] = {
    "dtype": ("dtype", DTYPES),
    "compile_mode": ("compile mode", COMPILE_MODES),
    "attention": ("attention", ATTENTIONS),
    "phase": ("phase", PHASES),
    "checkpointing": ("checkpointing", CHECKPOINTING),
    "optimizer_kernel": ("optimizer kernel", OPTIMIZER_KERNELS),
}
"""Field -> what it is called, and its values."""
FAMILIES = {"engine": "engines", "sampler": "samplers", "model": "models", "optimizer": "optimizers"}
NOT_IN_TRAINING = {
    "dtype": {"float16": "its gradients vanish without loss scaling; choose bfloat16"},
    "compile_mode": {"freeze": "it takes the weights for constants; choose default"},
}
MOST_SECONDS = 1e6


def defaults(options: Options) -> dict[str, dict[str, Any]]:
    """What `auto` means on each kind of device, for what the options ask."""
    return TRAINING_DEFAULTS if isinstance(options, TrainOptions) else DEFAULTS


def describe_request(options: Options) -> dict[str, Any]:
    """What to ask a worker before planning. Raises UserError for all that is wrong without knowing the machine."""
    axes = read_axes(options)
    for field, family in FAMILIES.items():
        for name in axes.get(field, ()):
            if name != "auto":
                registry.check(family, name)
    for field, (kind, choices) in CHOICES.items():
        for name in axes.get(field, ()):
            if name not in choices and not (name == "auto" and field in AUTOMATIC):
                raise errors.unknown(kind, name, choices)
            if isinstance(options, TrainOptions) and name in NOT_IN_TRAINING.get(field, ()):
                raise UserError(f"{kind} {name!r} is not for training: {NOT_IN_TRAINING[field][name]}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", options.device):
        raise errors.unknown("device", options.device, ("auto", "cpu", "cuda", "cuda:0"))
    if options.isolation not in ISOLATIONS:
        raise errors.unknown("isolation", options.isolation, ISOLATIONS)
    if not 0 < options.timeout <= MOST_SECONDS:
        raise UserError(f"--timeout {options.timeout:g} is not between 0 and {MOST_SECONDS:g}; give seconds, like 600")
    read_memory_limit(options.memory_limit, None)
    if isinstance(options, TimedOptions):
        if options.launches < 1:
            raise UserError(f"--launches {options.launches} is below 1; give 1 or more (5 by default)")
        read_positive("target-ci", options.target_ci, DEFAULTS["cpu"]["target_ci"])
        read_positive("max-seconds", options.max_seconds, DEFAULTS["cpu"]["max_seconds"])
    if isinstance(options, SweepOptions) and options.calibration not in CALIBRATIONS:
        raise errors.unknown("calibration", options.calibration, CALIBRATIONS)
    auto = defaults(options)
    return {
        "device": options.device,
        "models": {kind: [auto[kind]["model"] if name == "auto" else name for name in axes["model"]] for kind in auto},
        "texts": [list(text) for text in itertools.product(texts(axes), axes.get("tokenizer", ()))],
    }


def texts(axes: dict[str, list[Any]]) -> list[str]:
    """The files that are trained on."""
    return [path for path in axes.get("data", ()) if path != SYNTHETIC]


def requested(options: Options, device: str) -> tuple[list[Point], tuple[Arm, ...]]:
    """The points and arms that the options mean on a device; a batch size that is automatic is 0 here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # As many for a rank alone as for each of many: then the two tell what more ranks give.
    threads = max(1, cores // max(read_axes(options).get("world_size", [1])))
    auto = {**defaults(options)[device.partition(":")[0]], "threads": threads, "attention": "auto", "batch_size": 0}
    axes = {name: [auto[name] if value == "auto" else value for value in values] for name, values in read_axes(options).items()}
    points = dict.fromkeys(point_of(values) for values in product({**axes, "device": [device]}, Point))
    return list(points), tuple(Arm(**values) for values in product(axes, Arm))


FindBatch = Callable[[Point, tuple[Arm, ...]], int]


def no_batch_search(point: Point, arms: tuple[Arm, ...]) -> int:
    """For those who cannot look for a batch size."""
    raise UserError("--batch auto is looked for by trying, which is not done here; find it with: nanobench autobatch")


def make_plan(options: Options, description: Description, find: FindBatch = no_batch_search) -> Plan:
    """The plan that the options mean on the machine described; `find` tells an automatic batch size.

    Raises UserError for what that machine or a model can't do.
    """
    device = description.device
    kind = device.partition(":")[0]
    gpus = description.gpus
    if kind == "cuda" and int(device.partition(":")[2] or 0) >= len(gpus):
        found = f"torch sees {len(gpus)} CUDA device{'' if len(gpus) == 1 else 's'}"
        raise UserError(f"--device {device}: {found}; choose {'cuda:0 .. cuda:' + str(len(gpus) - 1) if gpus else 'cpu'}")
    ranks = max(read_axes(options).get("world_size", [1]))
    if kind == "cuda" and ranks > 1 and (ranks > len(gpus) or ":" in device):
        raise UserError(
            f"--nproc {ranks} on {device}: each rank takes a GPU of its own; choose cuda and at most {len(gpus)} ranks"
        )
    timed = options if isinstance(options, TimedOptions) else TimedOptions()
    if kind != "cuda" and timed.nvtx:
        raise UserError(f"--nvtx names ranges for Nsight and works on CUDA only, not on {device}; use --trace")
    auto = defaults(options)[kind]
    points, arms = requested(options, device)
    points = list(
        dict.fromkeys(point if point.batch_size else replace(point, batch_size=find(point, arms)) for point in points)
    )
    shapes = description.models
    for point in points:
        refuse_too_long(point, shapes[point.model])
        refuse_unknown_tokens(point, shapes[point.model], description.texts)
    ordered = sorted(points, key=lambda point: rough_flops(point, shapes[point.model]))
    return Plan(
        points=tuple(ordered),
        identities=tuple(identity_of(point, description) for point in ordered),
        arms=arms,
        launches=1 if timed.quick or timed is not options else timed.launches,
        seed=options.seed,
        target_ci=read_positive("target-ci", timed.target_ci, auto["target_ci"]),
        max_seconds=read_positive("max-seconds", timed.max_seconds, auto["max_seconds"]),
        memory_limit_bytes=read_memory_limit(options.memory_limit, description.available_bytes if kind == "cpu" else None),
        timeout_s=options.timeout,
        isolation=options.isolation,
        gate_only=timed is not options,
        trace=timed.trace,
        nvtx=timed.nvtx,
        calibration=options.calibration if isinstance(options, SweepOptions) else "off",
    )


def point_of(values: dict[str, Any]) -> Point:
    """A point; synthetic data has no tokenizer."""
    point = Point(**values)
    return replace(point, tokenizer="") if point.data == SYNTHETIC else point


def identity_of(point: Point, description: Description) -> str:
    """Twelve digits that stand for the machine, the software, the model's sizes and the threads."""
    facts = (description.identity["hash"], asdict(description.models[point.model]), point.threads)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def product(axes: dict[str, list[Any]], config_class: type) -> Iterator[dict[str, Any]]:
    """Every combination of the values of a noun's fields."""
    names = [field.name for field in fields(config_class) if field.name in axes]
    return (dict(zip(names, values, strict=True)) for values in itertools.product(*(axes[name] for name in names)))


def refuse_too_long(point: Point, shape: GPTShape) -> None:
    """Raises UserError where a sequence would not fit into the model's positions."""
    if point.trains:
        if point.seq_len > shape.block_size:
            what = f"seq_len {point.seq_len} > block_size {shape.block_size} of {point.model}"
            raise UserError(f"{what}; give --seq-len {shape.block_size} or less")
        return
    room = shape.block_size - point.prompt_len
    if point.new_tokens > room:
        shorter = f"--prompt-len {shape.block_size - point.new_tokens} or less" if point.new_tokens < shape.block_size else ""
        fewer = f"--new-tokens {room} or less" if room > 0 else ""
        raise UserError(
            f"prompt_len {point.prompt_len} + new_tokens {point.new_tokens} > block_size {shape.block_size} of {point.model}; "
            f"give {' or '.join(filter(None, (fewer, shorter))) or 'less of both'}"
        )


def refuse_unknown_tokens(point: Point, shape: GPTShape, found: Mapping[str, TextTokens]) -> None:
    """Raises UserError where a text has tokens that a model does not know."""
    if (
        point.data
        and point.data != SYNTHETIC
        and (largest := found[f"{point.tokenizer} {point.data}"].largest) >= shape.vocab_size
    ):
        what = f"{point.data} as {point.tokenizer} has token {largest}, and {point.model} a vocabulary of {shape.vocab_size}"
        raise UserError(f"{what}; give a model that knows it, another --tokenizer or --data {SYNTHETIC}")
