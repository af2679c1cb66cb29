"""Columns of cells that train; null in those that generate."""

import math
from collections.abc import Callable

import numpy as np

from nanobench.records import Repetition
from nanobench.results.cell import Cell
from nanobench.results.metrics.formulas import compile_s, over_launches, rate, value_of
from nanobench.results.metrics.metric import (
    BYTES,
    COUNT,
    FLOPS_PER_S,
    HIGHER,
    LOSS,
    LOWER,
    NEITHER,
    RATIO,
    SECONDS,
    TOKENS_PER_S,
    Metric,
    interval,
    outcome_max,
)
from nanobench.results.repetitions import seconds
from nanobench.roofline import flops
from nanobench.schema import GPTShape
from nanobench.stats import intervals
from nanobench.stats.intervals import Interval

step_s = over_launches(lambda repetitions: 1 / rate("calls")(repetitions))


def padding_fraction(cell: Cell) -> float | None:
    """Tokens that carry no loss over all."""
    tokens = sum(each.tokens for each in cell.untimestamped)
    return 1 - sum(each.useful_tokens or 0 for each in cell.untimestamped) / tokens if tokens else None


def loss(kind: str, last: bool) -> Callable[[Cell], float | None]:
    """The median over launches of the loss that a launch began or ended with."""

    def compute(cell: Cell) -> float | None:
        launches = ([each.loss for each in launch.of_kind(kind) if each.loss is not None] for launch in cell.launches)
        return intervals.median([losses[-1 if last else 0] for losses in launches if losses])

    return compute


def executed_flops_per_s(cell: Cell) -> float | None:
    """Operations that the steps execute over all ranks, padding and recomputation included, per second."""
    recomputed, logits = cell.arm.checkpointing != "off", cell.arm.cross_entropy != "full"

    def executed(shape: GPTShape, done: Repetition) -> float:
        return flops.training_flops(shape, done.tokens, done.attended_positions or 0, recomputed, logits)

    return flops_per_s(cell, executed)


def useful_flops_per_s(cell: Cell) -> float | None:
    """The least operations for the tokens that carry loss, per second."""

    def useful(shape: GPTShape, done: Repetition) -> float:
        return flops.training_flops(shape, done.useful_tokens or 0, done.useful_attended_positions or 0)

    return flops_per_s(cell, useful)


def flops_per_s(cell: Cell, of: Callable[[GPTShape, Repetition], float]) -> float | None:
    """Operations of the repetitions without timestamps over their time."""
    total_s, shape = sum(map(seconds, cell.untimestamped)), cell.shape
    return sum(of(shape, each) for each in cell.untimestamped) / total_s if total_s and shape is not None else None


def data_s(cell: Cell) -> float | None:
    """The median over launches of the time that a step's batches took to be made."""
    return intervals.median([each.data_s for each in cell.outcomes if each.data_s is not None])


def data_fraction(cell: Cell) -> float | None:
    """The share of a training loop that makes each step's batches before the step, and not beside it."""
    data, step = data_s(cell), value_of(step_s(cell))
    return data / (data + step) if data is not None and step else None


def breakeven_steps(cell: Cell) -> int | None:
    """Steps until the cold compile time is paid back; None where the arm is no faster than the same one uncompiled."""
    cost_s, mine_s = compile_s(cell, cold=True), value_of(step_s(cell))
    eager_s = value_of(step_s(cell.uncompiled)) if cell.uncompiled else None
    if cost_s is None or not mine_s or not eager_s or mine_s >= eager_s:
        return None
    return math.ceil(cost_s / (eager_s - mine_s))


def scaling_efficiency(cell: Cell) -> Interval | None:
    """Tokens per second of all ranks over as many times those of one rank, launch by launch; None without one rank alone."""
    if cell.point.world_size == 1 or not cell.single_rank_launches:
        return None
    mine, single = (
        {launch: rate("tokens")(found) for launch, found in each.untimestamped_by_launch.items()}
        for each in (cell, Cell(cell.single_rank_launches))
    )
    logs = [[float(np.log(mine[n] / single[n] / cell.point.world_size))] for n in mine if n in single]
    return intervals.ratio(logs) if logs else None


METRICS = (
    *interval(
        "train_tok_s",
        TOKENS_PER_S,
        HIGHER,
        over_launches(rate("tokens")),
        "tokens of a step over all ranks, padding included, per second",
    ),
    *interval(
        "useful_tok_s",
        TOKENS_PER_S,
        HIGHER,
        over_launches(rate("useful_tokens")),
        "tokens of a step that carry loss, over all ranks, per second",
    ),
    Metric("padding_fraction", RATIO, LOWER, "tokens without loss / all tokens", padding_fraction),
    *interval(
        "step_s",
        SECONDS,
        LOWER,
        step_s,
        "forward, backward, clip and optimizer of all accumulated batches; mean over repetitions without timestamps",
    ),
    Metric(
        "data_s",
        SECONDS,
        LOWER,
        "to make the batches of one step on the host and to copy them to the device, which `step_s` does not include; median",
        data_s,
    ),
    Metric(
        "data_fraction", RATIO, LOWER, "data_s / (data_s + step_s): the share of a loop that does not prefetch", data_fraction
    ),
    Metric("loss_first", LOSS, NEITHER, "loss of the first step; median over launches", loss("first_call", last=False)),
    Metric("loss_last", LOSS, NEITHER, "loss of the last timed step; median over launches", loss("steady", last=True)),
    Metric(
        "executed_flops_per_s",
        FLOPS_PER_S,
        HIGHER,
        "executed FLOPs of all ranks per second, padding and recomputation included, without the optimizer's",
        executed_flops_per_s,
    ),
    Metric(
        "useful_flops_per_s",
        FLOPS_PER_S,
        HIGHER,
        "least FLOPs for tokens with loss, 6 * matmul parameters each + 12 * layers * width * positions attended, per second",
        useful_flops_per_s,
    ),
    *outcome_max(BYTES, NEITHER, gradient_bytes="all gradients", optimizer_bytes="the optimizer's state"),
    *outcome_max(BYTES, LOWER, activation_bytes="allocator's peak in one batch's forward pass"),
    Metric("breakeven_steps", COUNT, LOWER, "steps until the cold compile time is paid back", breakeven_steps),
    *interval(
        "scaling_efficiency",
        RATIO,
        HIGHER,
        scaling_efficiency,
        "train_tok_s / (world_size * train_tok_s of one rank)",
        "95 % t interval over launches",
    ),
)
