"""From options to a plan: the points, the arms, and the trials of each round."""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from nanobench import source_code
from nanobench.errors import UserError
from nanobench.records import Description, JsonObject, TextTokens
from nanobench.roofline.flops import rough_flops
from nanobench.schema import SYNTHETIC, Arm, GPTShape, Plan, Point
from nanobench.sweep.axes import FAMILIES, Axes, engines_of, models_of
from nanobench.sweep.estimate import expected_total_s, refuse_large, refuse_long
from nanobench.sweep.executors import is_local
from nanobench.sweep.options import CPU, Defaults, Options
from nanobench.sweep.values import Value, read_memory_limit

FindBatch = Callable[[Point, tuple[Arm, ...]], int]
"""Finds the batch size that `auto` stands for: of a point, for all its arms together."""


def describe_request(options: Options) -> JsonObject:
    """What a worker must describe before a plan can be made. Raises UserError for everything that is wrong on any machine."""
    options.validate()
    refuse_large(options.axes, options.timing(CPU).launches, options.yes)
    if is_local(options):
        refuse_too_many_threads(options.axes)
    if options.device == "cpu" and is_local(options):
        refuse_too_many_ranks(options.device, most_ranks(options.axes), 0)
    return {
        "device": options.device,
        "models": {kind: models_on(defaults, options.axes) for kind, defaults in options.defaults.items()},
        "members": {family: members_of(options.axes, field) for field, family in FAMILIES.items() if field != "model"},
        "texts": [list(pair) for pair in itertools.product(texts(options.axes), options.axes.get("tokenizer", ()))],
    }


def models_on(defaults: Defaults, axes: Axes) -> list[str]:
    """The models requested, on a device with these defaults, each with each window."""
    return models_of(axes, defaults.model)


def texts(axes: Axes) -> list[str]:
    """The text files to train on, or to cut prompts from."""
    return [str(path) for path in axes.get("data", ()) if path != SYNTHETIC]


def requested(options: Options, device: str, cores: int | None = None) -> tuple[list[Point], tuple[Arm, ...]]:
    """The points and arms that the options request on a device of a machine with so many usable cores, by default this one.

    An automatic batch size is 0. Random prompts have no name where there are no others.
    """
    auto = automatic_values(options, device, cores)
    models: list[Value] = [*models_of(options.axes, str(auto["model"]))]
    known = {**options.axes, "model": models, "window": [], "draft_len": []}
    if "engine" in known:
        known["engine"] = [*engines_of(options.axes)]
    axes = {name: [auto[name] if value == "auto" else value for value in values] for name, values in known.items()}
    if "prompt_len" in axes and axes["data"] == [SYNTHETIC]:
        axes["data"] = [""]
    points = dict.fromkeys(point_of(values) for values in combinations({**axes, "device": [device]}, Point))
    return list(points), tuple(Arm(**values) for values in combinations(axes, Arm))


def automatic_values(options: Options, device: str, cores: int | None = None) -> dict[str, str | int]:
    """Field of Point or Arm -> what `auto` means on a device.

    Threads are the same for one rank as for each of several ranks, so that the two show the gain from more ranks.
    """
    defaults = options.defaults[device_kind(device)]
    return {
        "model": defaults.model,
        "dtype": defaults.dtype,
        "new_tokens": defaults.new_tokens,
        "seq_len": defaults.seq_len,
        "threads": max(1, (cores or usable_cores()) // most_ranks(options.axes)),
        "attention": "auto",
        "batch_size": 0,
    }


def members_of(axes: Axes, field: str) -> list[str]:
    """The members of a family that are requested, with their arguments."""
    return engines_of(axes) if field == "engine" else [str(name) for name in axes.get(field, ())]


def device_kind(device: str) -> str:
    """Cpu or cuda, without an index."""
    return device.partition(":")[0]


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of(options: Options, description: Description) -> int | None:
    """The cores that a worker on another machine may use; None where workers run on this one."""
    return None if is_local(options) else description.identity["cores"]


def most_ranks(axes: Axes) -> int:
    """The largest number of ranks requested."""
    return max(int(ranks) for ranks in axes.get("world_size", [1]))


def combinations(axes: Axes, kind: type) -> Iterator[dict[str, Any]]:
    """Every combination of the values of the fields of Point or Arm."""
    names = [field.name for field in fields(kind) if field.name in axes]
    return (dict(zip(names, values, strict=True)) for values in itertools.product(*(axes[name] for name in names)))


def point_of(values: dict[str, Any]) -> Point:
    """A point. Synthetic data has no tokenizer."""
    point = Point(**values)
    return replace(point, tokenizer="") if point.data in ("", SYNTHETIC) else point


def no_batch_search(point: Point, arms: tuple[Arm, ...]) -> int:
    """Refuses an automatic batch size, for callers that cannot search."""
    raise UserError("--batch auto needs a search, which this command does not run; find the batch with: nanobench autobatch")


def make_plan(options: Options, description: Description, find: FindBatch = no_batch_search) -> Plan:
    """The plan that the options request on the machine described. `find` finds automatic batch sizes.

    Raises UserError for what that machine or a model can't do.
    """
    device = description.device
    kind = device_kind(device)
    timing = options.timing(options.defaults[kind])
    refuse_missing_gpu(device, description.gpus)
    cores = cores_of(options, description)
    refuse_too_many_ranks(device, most_ranks(options.axes), len(description.gpus), cores)
    refuse_nvtx(device, timing.nvtx)
    points, arms = requested(options, device, cores)
    shapes = description.models
    refuse_misfits(points, shapes, description.texts)
    points = with_batch_sizes(points, arms, find)
    ordered = sorted(points, key=lambda point: rough_flops(point, shapes[point.model]))
    plan = Plan(
        points=tuple(ordered),
        identities=tuple(identity_of(point, description) for point in ordered),
        arms=arms,
        launches=timing.launches,
        seed=options.seed,
        target_ci=timing.target_ci,
        max_seconds=timing.max_seconds,
        memory_limit_bytes=read_memory_limit(options.memory_limit, description.available_bytes if kind == "cpu" else None),
        timeout_s=options.timeout,
        isolation=options.isolation if is_local(options) else "spawn",
        gate_only=options.gate_only,
        trace=timing.trace,
        nvtx=timing.nvtx,
        check=timing.check,
        calibration=timing.calibration,
        extra_launches=timing.extra_launches,
        max_minutes=timing.max_minutes,
        adaptive=timing.adaptive,
        sustain=timing.sustain,
        max_kl=options.kl_limit(),
    )
    refuse_long(expected_total_s(plan, description), options.yes)
    return plan


def refuse_missing_gpu(device: str, gpus: Sequence[str]) -> None:
    """Raises UserError for a GPU that torch does not see."""
    kind, _, index = device.partition(":")
    if kind == "cuda" and int(index or 0) >= len(gpus):
        found = f"torch sees {len(gpus)} CUDA device{'' if len(gpus) == 1 else 's'}"
        raise UserError(f"--device {device}: {found}; choose {'cuda:0 .. cuda:' + str(len(gpus) - 1) if gpus else 'cpu'}")


def refuse_too_many_ranks(device: str, ranks: int, gpus: int, cores: int | None = None) -> None:
    """Raises UserError for more ranks than usable cores (by default of this machine) or GPUs, and for several ranks on one
    named GPU.
    """
    most = cores or usable_cores()
    if device_kind(device) == "cpu" and ranks > most:
        fix = f"choose at most {most}, the number of cores that a worker may use"
        raise UserError(f"--nproc {ranks} on {device}: each rank needs its own core; {fix}")
    if device_kind(device) == "cuda" and ranks > 1 and (ranks > gpus or ":" in device):
        raise UserError(f"--nproc {ranks} on {device}: each rank needs its own GPU; choose cuda and at most {gpus} ranks")


def refuse_too_many_threads(axes: Axes) -> None:
    """Raises UserError for more threads than the machine has cores."""
    cores, threads = os.cpu_count() or 1, max((n for n in axes["threads"] if isinstance(n, int)), default=1)
    if threads > cores:
        raise UserError(f"--threads {threads} is more than the {cores} cores of this machine; choose at most {cores}")


def refuse_nvtx(device: str, nvtx: bool) -> None:
    """Raises UserError for --nvtx on a device that Nsight does not profile."""
    if nvtx and device_kind(device) != "cuda":
        raise UserError(f"--nvtx names ranges for Nsight and works on CUDA only, not on {device}; use --trace")


def with_batch_sizes(points: list[Point], arms: tuple[Arm, ...], find: FindBatch) -> list[Point]:
    """The points with every automatic batch size found, each once."""
    found = (point if point.batch_size else replace(point, batch_size=find(point, arms)) for point in points)
    return list(dict.fromkeys(found))


def identity_of(point: Point, description: Description) -> str:
    """Twelve hexadecimal digits that identify the machine, the software, the model's sizes and the threads; a hyphen; and eight
    that identify the source code.
    """
    facts = (description.identity["hash"], asdict(description.models[point.model]), point.threads)
    machine = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return f"{machine}-{source_code.digest(description.code)}"


def refuse_misfits(points: list[Point], shapes: Mapping[str, GPTShape], texts: Mapping[str, TextTokens]) -> None:
    """Raises UserError for a point whose model is too short for its sequence or does not know all tokens of its text, and for a
    text that is shorter than a prompt.
    """
    for point in points:
        if point.trains:
            refuse_long_row(point, shapes[point.model])
        else:
            refuse_long_sequence(point, shapes[point.model])
        refuse_short_text(point, texts)
        refuse_unknown_tokens(point, shapes[point.model], texts)


def refuse_long_row(point: Point, shape: GPTShape) -> None:
    """Raises UserError where a training row does not fit into the model's positions."""
    if point.seq_len > shape.block_size:
        what = f"seq_len {point.seq_len} > block_size {shape.block_size} of {point.model}"
        raise UserError(f"{what}; give --seq-len {shape.block_size} or less")


def refuse_long_sequence(point: Point, shape: GPTShape) -> None:
    """Raises UserError where prompt and output do not fit into the model's positions."""
    room = shape.block_size - point.prompt_len
    if point.new_tokens <= room:
        return
    shorter = f"--prompt-len {shape.block_size - point.new_tokens} or less" if point.new_tokens < shape.block_size else ""
    fewer = f"--new-tokens {room} or less" if room > 0 else ""
    raise UserError(
        f"prompt_len {point.prompt_len} + new_tokens {point.new_tokens} > block_size {shape.block_size} of {point.model}; "
        f"give {' or '.join(filter(None, (fewer, shorter))) or 'less of both'}"
    )


def refuse_short_text(point: Point, texts: Mapping[str, TextTokens]) -> None:
    """Raises UserError where prompts, or rows of training with the token after them, are longer than their text."""
    if point.data in ("", SYNTHETIC):
        return
    tokens = texts[f"{point.tokenizer} {point.data}"].tokens
    option, length, after = ("seq-len", point.seq_len, 1) if point.trains else ("prompt-len", point.prompt_len, 0)
    if tokens < length + after:
        enough = f"--{option} {length}" + " and the token after it" * after
        what = f"{point.data} as {point.tokenizer} has {tokens} tokens, too few for {enough}"
        raise UserError(f"{what}; give --{option} {tokens - after} or less, or a longer text")


def refuse_unknown_tokens(point: Point, shape: GPTShape, texts: Mapping[str, TextTokens]) -> None:
    """Raises UserError where a text has tokens outside the model's vocabulary."""
    if point.data in ("", SYNTHETIC):
        return
    largest, option = texts[f"{point.tokenizer} {point.data}"].largest, "data" if point.trains else "prompts"
    if largest >= shape.vocab_size:
        what = (
            f"{point.data} as {point.tokenizer} has token {largest}, but the vocabulary of {point.model} is {shape.vocab_size}"
        )
        raise UserError(f"{what}; give a model with a larger vocabulary, another --tokenizer or --{option} {SYNTHETIC}")
