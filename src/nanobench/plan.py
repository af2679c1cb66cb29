"""From options to a plan: the points, the arms, and the trials round by round."""

import hashlib
import itertools
import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from nanobench import lookup
from nanobench.errors import UserError
from nanobench.options import CALIBRATIONS, ISOLATIONS, Options, SweepOptions, read_axes, read_memory_limit, read_positive
from nanobench.schema import ATTENTIONS, COMPILE_MODES, DTYPES, Arm, GPTShape, Point, Trial

DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"model": "gpt2-mini", "dtype": "float32", "new_tokens": 16, "target_ci": 0.05, "max_seconds": 4.0},
    "cuda": {"model": "gpt2", "dtype": "bfloat16", "new_tokens": 200, "target_ci": 0.01, "max_seconds": 20.0},
}
"""What `auto` means on each kind of device."""
MOST_SECONDS = 1e6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be run, with nothing left to decide; the points in rising cost."""

    points: tuple[Point, ...]
    arms: tuple[Arm, ...]
    launches: int
    seed: int
    target_ci: float
    max_seconds: float
    memory_limit_bytes: int | None
    timeout_s: float
    isolation: str
    gate_only: bool = False
    trace: bool = False
    nvtx: bool = False
    calibration: str = "auto"
    identities: tuple[str, ...] = ()
    """one per point, in their order"""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """The plan whose `asdict` this is."""
        points = tuple(Point(**point) for point in data["points"])
        arms = tuple(Arm(**arm) for arm in data["arms"])
        return cls(**{**data, "points": points, "arms": arms, "identities": tuple(data.get("identities", ()))})

    def rounds(self) -> Iterator[list[Trial]]:
        """The trials of each round of launches.

        The first round goes in rising cost, as the points stand, so that what runs out of memory is found cheaply;
        the later ones go at random.
        """
        for launch in range(1, self.launches + 1):
            order = list(self.points)
            if launch > 1:
                random.Random(f"{self.seed} {launch}").shuffle(order)
            yield [self.trial(point, launch) for point in order]

    def trial(self, point: Point, launch: int) -> Trial:
        """One launch of one point."""
        return Trial(
            point=point,
            arms=self.arms,
            launch=launch,
            seed=self.seed,
            target_ci=self.target_ci,
            max_seconds=self.max_seconds,
            memory_limit_bytes=self.memory_limit_bytes,
            gate_only=self.gate_only,
            trace=self.trace,
            nvtx=self.nvtx,
            identity=dict(zip(self.points, self.identities, strict=False)).get(point),
        )


def question(options: Options) -> dict[str, Any]:
    """What to ask a worker before planning. Raises UserError for all that is wrong without knowing the machine."""
    axes = read_axes(options)
    for family, plural in (("engine", "engines"), ("sampler", "samplers"), ("model", "models")):
        for name in axes[family]:
            if name != "auto":
                lookup.check(plural, name)
    for name in axes["dtype"]:
        if name not in (*DTYPES, "auto"):
            raise lookup.unknown("dtype", name, DTYPES)
    for name in axes["compile_mode"]:
        if name not in COMPILE_MODES:
            raise lookup.unknown("compile mode", name, COMPILE_MODES)
    for name in axes["attention"]:
        if name not in ATTENTIONS:
            raise lookup.unknown("attention", name, ATTENTIONS)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", options.device):
        raise lookup.unknown("device", options.device, ("auto", "cpu", "cuda", "cuda:0"))
    if options.isolation not in ISOLATIONS:
        raise lookup.unknown("isolation", options.isolation, ISOLATIONS)
    if not 0 < options.timeout <= MOST_SECONDS:
        raise UserError(f"--timeout {options.timeout:g} is not between 0 and {MOST_SECONDS:g}; give seconds, like 600")
    read_memory_limit(options.memory_limit, None)
    if isinstance(options, SweepOptions):
        if options.launches < 1:
            raise UserError(f"--launches {options.launches} is below 1; give 1 or more (5 by default)")
        if options.calibration not in CALIBRATIONS:
            raise lookup.unknown("calibration", options.calibration, CALIBRATIONS)
        read_positive("target-ci", options.target_ci, DEFAULTS["cpu"]["target_ci"])
        read_positive("max-seconds", options.max_seconds, DEFAULTS["cpu"]["max_seconds"])
    return {
        "device": options.device,
        "models": {kind: [DEFAULTS[kind]["model"] if name == "auto" else name for name in axes["model"]] for kind in DEFAULTS},
    }


def make_plan(options: Options, description: dict[str, Any]) -> Plan:
    """The plan that the options mean on the machine described. Raises UserError for what that machine or a model can't do."""
    device = description["device"]
    kind = device.partition(":")[0]
    gpus = description["gpus"]
    if kind == "cuda" and int(device.partition(":")[2] or 0) >= len(gpus):
        found = f"torch sees {len(gpus)} CUDA device{'' if len(gpus) == 1 else 's'}"
        raise UserError(f"--device {device}: {found}; choose {'cuda:0 .. cuda:' + str(len(gpus) - 1) if gpus else 'cpu'}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    auto = {**DEFAULTS[kind], "threads": cores, "attention": "auto"}
    if kind != "cuda" and isinstance(options, SweepOptions) and options.nvtx:
        raise UserError(f"--nvtx names ranges for Nsight and works on CUDA only, not on {device}; use --trace")
    axes = {name: [auto[name] if value == "auto" else value for value in values] for name, values in read_axes(options).items()}
    points = dict.fromkeys(Point(**values) for values in product({**axes, "device": [device]}, Point))
    shapes = {name: GPTShape(**shape) for name, shape in description["models"].items()}
    for point in points:
        refuse_too_long(point, shapes[point.model])
    sweep = options if isinstance(options, SweepOptions) else SweepOptions()
    ordered = sorted(points, key=lambda p: shapes[p.model].n_params * p.batch_size * p.total_len * p.new_tokens)
    return Plan(
        points=tuple(ordered),
        identities=tuple(identity_of(point, description) for point in ordered),
        arms=tuple(Arm(**values) for values in product(axes, Arm)),
        launches=1 if sweep.quick or not isinstance(options, SweepOptions) else sweep.launches,
        seed=options.seed,
        target_ci=read_positive("target-ci", sweep.target_ci, auto["target_ci"]),
        max_seconds=read_positive("max-seconds", sweep.max_seconds, auto["max_seconds"]),
        memory_limit_bytes=read_memory_limit(options.memory_limit, description["available_bytes"] if kind == "cpu" else None),
        timeout_s=options.timeout,
        isolation=options.isolation,
        gate_only=not isinstance(options, SweepOptions),
        trace=sweep.trace,
        nvtx=sweep.nvtx,
        calibration=sweep.calibration,
    )


def identity_of(point: Point, description: dict[str, Any]) -> str:
    """Twelve digits that stand for the machine, the software, the model's sizes and the threads."""
    facts = (description["identity"]["hash"], description["models"][point.model], point.threads)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def product(axes: dict[str, list[Any]], noun: type) -> Iterator[dict[str, Any]]:
    """Every combination of the values of a noun's fields."""
    names = [field.name for field in fields(noun)]
    return (dict(zip(names, values, strict=True)) for values in itertools.product(*(axes[name] for name in names)))


def refuse_too_long(point: Point, shape: GPTShape) -> None:
    """Raises UserError where a sequence would not fit into the model's positions."""
    room = shape.block_size - point.prompt_len
    if point.new_tokens > room:
        shorter = f"--prompt-len {shape.block_size - point.new_tokens} or less" if point.new_tokens < shape.block_size else ""
        fewer = f"--new-tokens {room} or less" if room > 0 else ""
        raise UserError(
            f"prompt_len {point.prompt_len} + new_tokens {point.new_tokens} > block_size {shape.block_size} of {point.model}; "
            f"give {' or '.join(filter(None, (fewer, shorter))) or 'less of both'}"
        )


def expected_s(plan: Plan, point: Point, launch: int, description: dict[str, Any]) -> float:
    """About how long a launch of a point takes, from a rough matmul rate: at half of it, never faster than 2 ms per token.

    The first launch passes the gates besides.
    """
    rate = description["matmul_flops_per_s"] / 2
    flops_per_token = 2 * description["models"][point.model]["n_params"] * point.batch_size
    round_s = compile_s = 0.0
    for arm in plan.arms:
        read = (
            point.total_len if arm.engine.startswith("cached") else point.new_tokens * (point.prompt_len + point.new_tokens / 2)
        )
        round_s += max(flops_per_token * read / rate, 0.002 * point.new_tokens)
        compile_s += 0.0 if arm.compile_mode == "off" else (30.0 if launch == 1 else 10.0)
    pairs_s = 0.0 if plan.gate_only else max(round_s, min(plan.max_seconds, 10 * round_s))
    return 0.5 + compile_s + round_s + pairs_s + (2 * round_s if launch == 1 else 0.0)
