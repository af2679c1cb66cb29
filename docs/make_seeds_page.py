"""Generates docs/seeds.md from the published baselines in results/seeds: `python docs/make_seeds_page.py > docs/seeds.md`.

Everything is closed form: bytes and operations of nanochat-d12 come from `nanobench.roofline.flops`, peaks from the A100's
datasheet.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from nanobench import registry
from nanobench.roofline import datasheet, flops
from nanobench.roofline.flops import NOTHING, Cost, Pass
from nanobench.schema import DTYPE_BYTES, GPTShape, Point

FIGURES = Path(__file__).parents[1] / "results" / "seeds" / "seed_results.csv"
SHEET = datasheet.named("a100-80gb")
MODEL, DTYPE = "nanochat-d12", "bfloat16"
PEAK = SHEET.flops[DTYPE]
KV_ACCESS_OF = {"uncached": "uncached-full-logits", "cached": "cat"}
"""The cached arm fills a preallocated cache and attends over the filled part: like `cat`, but without its copies."""
EXPLAINED = 0.5
"""A minimum time explains a step that is at most twice as long."""
FLAT = 1.1
with torch.device("meta"):
    SHAPE = registry.find("models", MODEL)().shape

Row = dict[str, str]


@dataclass(frozen=True)
class TrainingStep:
    """Operations and bytes of one optimizer step on one device, without recomputation."""

    forward_flops: float
    backward_flops: float
    """twice the forward pass: gradients of inputs and of weights"""
    optimizer_bytes: float
    """AdamW reads parameters, gradients and both moments, and writes all but the gradients: seven times the parameters"""
    logits_bytes: float
    """written, and read by the loss, at every position"""


def training_step(shape: GPTShape, dtype: str, batch_size: int, seq_len: int) -> TrainingStep:
    """Cost of a step on `batch_size` rows of `seq_len` tokens; optimizer state in float32, causal attention counted in full."""
    whole = flops.cost(shape, dtype, Pass(batch_size, seq_len, seq_len, seq_len))
    logits = batch_size * seq_len * shape.vocab_size
    return TrainingStep(
        forward_flops=whole.flops,
        backward_flops=2 * whole.flops,
        optimizer_bytes=7 * DTYPE_BYTES["float32"] * shape.n_params,
        logits_bytes=2 * DTYPE_BYTES[dtype] * logits,
    )


@dataclass(frozen=True)
class Cell:
    """One published throughput, and the mean cost of one of its passes."""

    arm: str
    point: Point
    tok_s: float

    @property
    def step_s(self) -> float:
        """Mean seconds of a pass."""
        return self.point.batch_size / self.tok_s

    @cached_property
    def passes(self) -> list[Pass]:
        """The prefill and the steps after it."""
        return flops.KV_ACCESS[KV_ACCESS_OF[self.arm]](self.point)

    @cached_property
    def cost(self) -> Cost:
        """Cost of the whole call."""
        return executed(self.passes)

    @property
    def read_s(self) -> float:
        """The minimum time to read the weights and the cache of a pass."""
        positions = sum(one.rows * one.context for one in self.passes) if self.arm == "cached" else 0
        return self.moving_s(self.cost.weight_bytes + positions * SHAPE.kv_bytes_per_token(DTYPE))

    @property
    def multiply_s(self) -> float:
        """The minimum time of the operations of a pass."""
        return self.cost.flops / PEAK / self.point.new_tokens

    @property
    def floor_s(self) -> float:
        """The larger of the two."""
        return max(self.read_s, self.multiply_s)

    @property
    def mfu(self) -> float:
        """Useful operations / peak / step."""
        return flops.useful_flops(SHAPE, self.point) / PEAK / self.point.new_tokens / self.step_s

    def moving_s(self, moved_bytes: float) -> float:
        """The minimum time to move the bytes of a call, divided by its passes."""
        return moved_bytes / SHEET.bytes_per_s / self.point.new_tokens

    def bound_by(self, arm: list["Cell"]) -> str:
        """The rule of the page; `arm` has all cells of the arm."""
        if self.floor_s >= EXPLAINED * self.step_s:
            return "bandwidth" if self.read_s > self.multiply_s else "compute"
        return "host" if any(self.is_flat_to(other) for other in arm) else "unexplained"

    def is_flat_to(self, other: "Cell") -> bool:
        """Whether both steps take the same time, although one batch is at least twice the other."""
        fewer, more = sorted((self.point.batch_size, other.point.batch_size))
        return more >= 2 * fewer and max(self.step_s, other.step_s) <= FLAT * min(self.step_s, other.step_s)


def executed(passes: Iterable[Pass]) -> Cost:
    """The cost of all passes."""
    return sum((flops.cost(SHAPE, DTYPE, one) for one in passes), NOTHING)


def published() -> list[Row]:
    """All rows of the file."""
    with FIGURES.open(newline="") as lines:
        return list(csv.DictReader(lines))


def is_generation(row: Row) -> bool:
    """Whether a row has a step time: a throughput with known batch and lengths."""
    return row["unit"] == "output_tok_s" and row["prompt_len"] != ""


def is_training(row: Row) -> bool:
    """The same for training."""
    return row["unit"] == "train_tok_s" and row["kind"].startswith("measured")


def cells_of(arm: str) -> list[Cell]:
    """All cells of an arm, by increasing batch size."""
    return [cell_of(row) for row in published() if is_generation(row) and row["arm"] == arm]


def cell_of(row: Row) -> Cell:
    """The cell of a row of generation."""
    sizes = {name: int(row[name]) for name in ("batch_size", "prompt_len", "new_tokens")}
    return Cell(row["arm"], Point(model=MODEL, dtype=DTYPE, device="cuda", threads=1, **sizes), float(row["value"]))


def ms(seconds: float, digits: int = 2) -> str:
    """Milliseconds."""
    return f"{seconds * 1e3:.{digits}f}"


def percent(share: float, digits: int = 1) -> str:
    """A share of a peak or of a whole."""
    return f"{100 * share:.{digits}f} %"


def table(header: str, rows: Iterable[list[str]]) -> str:
    """A Markdown table; a colon after a name aligns the column to the right."""
    names = [name.strip() for name in header.split("|")]
    rule = "|".join("--:" if name.endswith(":") else "---" for name in names)
    lines = [[name.removesuffix(":") for name in names], *rows]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, f"|{rule}|", *body])


def generation(arm: str) -> str:
    """The table of one arm."""
    cells = cells_of(arm)
    rows = (
        [
            str(cell.point.batch_size),
            f"{cell.tok_s:,}",
            ms(cell.step_s),
            ms(cell.read_s, 3),
            ms(cell.multiply_s, 3),
            f"{cell.step_s / cell.floor_s:.1f}",
            percent(cell.read_s / cell.step_s, 2),
            percent(cell.mfu, 2),
            percent(cell.multiply_s / cell.step_s, 2),
            cell.bound_by(cells),
        ]
        for cell in cells
    )
    names = "batch:|tok/s:|ms per step:|min. read, ms:|min. compute, ms:|step / larger min.:|MBU:|MFU:|HFU:|bound by"
    return table(names, rows)


def speedups() -> str:
    """The published speedups next to other ratios."""
    rows = (
        [
            str(cached.point.batch_size),
            f"{cached.tok_s / uncached.tok_s:.2f}",
            f"{uncached.floor_s / cached.floor_s:.1f}",
            f"{uncached.cost.flops / cached.cost.flops:.1f}",
            f"{flops.naive_speedup(cached.point):.1f}",
        ]
        for uncached, cached in zip(cells_of("uncached"), cells_of("cached"), strict=True)
    )
    return table("batch:|published:|minimum times:|executed operations:|tokens read:", rows)


def training() -> str:
    """Forward and backward passes."""
    return table("phase|batch:|length:|tok/s:|ms per step:|HFU:", map(training_row, filter(is_training, published())))


def training_row(row: Row) -> list[str]:
    """One row of training."""
    batch_size, seq_len, tok_s = int(row["batch_size"]), int(row["seq_len"]), float(row["value"])
    step, seconds = training_step(SHAPE, DTYPE, batch_size, seq_len), batch_size * seq_len / tok_s
    hfu = (step.forward_flops + step.backward_flops) / PEAK / seconds
    return [row["what"], str(batch_size), str(seq_len), f"{tok_s:,.0f}", ms(seconds, 1), percent(hfu)]


def left_out() -> str:
    """Rows without a step time, each with the reason."""
    rows = (
        [row["source"], row["what"], row["arm"], row["batch_size"], f"{row['value']} {row['unit']}", why_not(row)]
        for row in published()
        if not is_generation(row) and not is_training(row)
    )
    return table("source|what|arm|batch:|published:|why there is no step time", rows)


def why_not(row: Row) -> str:
    """Why a row has no step time."""
    if row["unit"] in ("ratio", "seconds"):
        return "no throughput"
    if not row["kind"].startswith("measured"):
        return row["kind"]
    seconds = int(row["batch_size"]) / float(row["value"])
    unknown = "the CPU is" if row["hardware"].startswith("CPU") else "lengths are"
    return f"{unknown} not stated; {ms(seconds)} ms per step"


def facts() -> dict[str, str]:
    """The figures in the sentences of the page."""
    uncached, cached = cells_of("uncached"), cells_of("cached")
    host = [cell for cell in uncached if cell.bound_by(uncached) == "host"]
    busy = [cell for cell in uncached if cell.bound_by(uncached) == "unexplained"]
    first, last, slowest = cached[0], cached[-1], uncached[-1]
    weights_s = SHAPE.read_params * DTYPE_BYTES[DTYPE] / SHEET.bytes_per_s
    head = 1 - executed(flops.uncached(slowest.point)).matmul_flops / slowest.cost.matmul_flops
    return {
        "n_params": f"{SHAPE.n_params / 1e6:.1f}",
        "read_params": f"{SHAPE.read_params / 1e6:.1f}",
        "bandwidth": f"{SHEET.bytes_per_s / 1e12:.3f}",
        "peak": f"{PEAK / 1e12:.0f}",
        "sheet": SHEET.source,
        "cached_ms": f"{ms(min(cell.step_s for cell in cached))} to {ms(max(cell.step_s for cell in cached))}",
        "weights_ms": ms(weights_s, 3),
        "over_weights": f"{first.step_s / weights_s:.0f}",
        "over_first": f"{first.step_s / first.floor_s:.0f}",
        "over_last": f"{last.step_s / last.floor_s:.0f}",
        "last": str(last.point.batch_size),
        "host_batches": " and ".join(str(cell.point.batch_size) for cell in host),
        "host_ms": " and ".join(ms(cell.step_s) for cell in host),
        "more": f"{uncached[0].cost.flops / first.cost.flops:.0f}",
        "context": f"{sum(one.tokens for one in uncached[0].passes) / first.point.new_tokens:.0f}",
        "balance": f"{PEAK / SHEET.bytes_per_s:.0f}",
        "first_floors": f"{ms(uncached[0].floor_s, 3)} and {ms(first.floor_s, 3)}",
        "first_mbu": percent(first.read_s / first.step_s),
        "last_mbu": percent(last.read_s / last.step_s),
        "last_mfu": percent(last.mfu),
        "busy_from": str(busy[0].point.batch_size),
        "busy_low": f"{min(cell.step_s / cell.floor_s for cell in busy):.0f}",
        "busy_high": f"{max(cell.step_s / cell.floor_s for cell in busy):.0f}",
        "slowest_ms": ms(slowest.step_s, 0),
        "multiply_ms": ms(slowest.multiply_s, 1),
        "moving_ms": ms(slowest.moving_s(slowest.cost.bytes), 1),
        "head": percent(head, 0),
        "attention": percent(slowest.cost.attention_flops / slowest.cost.flops),
        "tokens": f"{sum(one.tokens for one in slowest.passes):,}",
        "total_len": str(last.point.total_len),
        "naive": f"{flops.naive_speedup(last.point):.1f}",
        "speedup": f"{last.tok_s / slowest.tok_s:.2f}",
        "last_ms": ms(last.step_s, 1),
        "floors": f"{slowest.floor_s / last.floor_s:.0f}",
    }


PAGE = """\
# The published baselines, explained
nanobench grew out of benchmark scripts that others published. Their figures and sources are in
[results/seeds](../results/seeds/README.md). This page derives from these figures what limits each step.
**Nothing here was measured by us**: every figure follows from a published figure, from the closed forms in
`nanobench.roofline.flops` and from a datasheet. `python docs/make_seeds_page.py > docs/seeds.md` generates the page.

In short: the cached arm is host-bound at every batch size. The uncached arm is host-bound at batch {host_batches}, and its
time from batch {busy_from} is unexplained. The published speedup of {speedup} therefore does not show what a cache gives.

The model is nanochat d12 (12 layers, 768 wide, 12 heads over 6 key-value heads, vocabulary 65,536; {n_params}M parameters,
of which every pass reads {read_params}M) in bfloat16 on an A100 80 GB SXM, prompt 50, 200 new tokens. The uncached arm
computes logits at every position and discards all but the last. Each cell was timed once, so its variation is unknown.

## How to read a row
- *Step*: batch / (tok/s). This is the mean over the 200 passes of a call, including the prefill.
- *Min. read*: the minimum time to read the weights, and in the cached arm the filled part of the cache, at {bandwidth} TB/s.
  *Min. compute*: the minimum time of all executed operations, at {peak} TFLOP/s, dense ({sheet}).
  No step can be shorter than either of these two.
- MBU is min. read / step. HFU is min. compute / step. MFU counts only the operations that the same tokens need at least.
- *Bound by*: `bandwidth` or `compute` if the larger minimum is at least half of the step. Otherwise `host` if the step is
  flat: another cell of the same arm, with at least twice or at most half the batch, takes the same time within a tenth.
  Otherwise `unexplained`: the time grows with the work, and neither peak explains it.

## Without a cache
{uncached}

## With a cache
{cached}

## What follows
- **The cached arm is host-bound at every batch size.** Its step takes {cached_ms} ms at every batch size. At batch 1 this is
  {over_weights} times the {weights_ms} ms that reading the weights takes. At batch {last}, with {last} times the work, it is
  still {over_last} times the time for reading weights and cache. A time that does not change with the work is a cost per
  operation: the host launches the kernels one by one. The shortest possible duration of a kernel would look the same in this
  table; a profiler can tell the two apart.
- **At batch {host_batches} the uncached arm has the same limit**: {host_ms} ms, although it executes {more} times the
  operations. Two arms that wait for the same launches take the same time. This explains the published "no benefit".
- **At batch 1 a cache can gain little on this GPU, even without the cost of the launches.** One read of the weights serves
  {context} tokens of the uncached arm. In that time the A100 can multiply for about as many tokens ({balance} operations per
  byte). The minimum times of the two arms are {first_floors} ms.
- **Is batch 1 memory-bound? No**: MBU is {first_mbu}. **Is batch {last} compute-bound? No**: MFU is {last_mfu}, MBU
  {last_mbu}. The published utilization of about 90 % is no evidence: none of the scripts reads a utilization. A share of
  time in which some kernel ran would not show how much work it did either.
- **From batch {busy_from}, the uncached arm takes longer than its launches, and this table does not show why.** Its step is
  {busy_low} to {busy_high} times the minimum compute time, and grows with the batch. At batch {last} it takes {slowest_ms} ms.
  Its operations need {multiply_ms} ms. Its matmuls, norms, activations, additions and logits need {moving_ms} ms to read and
  write their data. Possible reasons are slow kernels, an allocator that grows with each longer pass (the warm-up had one row
  and 5 new tokens), or a shared GPU. {head} of the operations in matmuls with weights compute logits that are never used.
- **{speedup} is therefore an unexplained {slowest_ms} ms divided by a host-bound {last_ms} ms**, not the gain from a cache.
  The published upper bound of {naive} is a ratio of tokens read ({tokens} / {total_len}), as if each token took the same
  time. The minimum times allow {floors}. Attention does not explain the difference: it is {attention} of the uncached arm's
  operations.
- **Fewer launches would help.** A decode step that is compiled, or captured as one graph, can be up to {over_first} times
  as fast at batch 1 and {over_last} times as fast at batch {last}, before memory limits it. The published scripts do not try
  this.

Cached over uncached: the published ratio, and the ratios of the larger minimum times, of executed operations and of tokens
read:

{speedups}

## Training
Forward and backward pass without an optimizer step. Causal attention is counted in full. The larger batch reaches a quarter
of the peak. The utilizations printed next to these rows, up to 92 %, do not come from a measurement.

{training}

## Rows without a step time
{left_out}
"""


def page() -> str:
    """The whole page."""
    tables = {"uncached": generation("uncached"), "cached": generation("cached"), "speedups": speedups()}
    return PAGE.format(**facts(), **tables, training=training(), left_out=left_out())


if __name__ == "__main__":
    print(page(), end="")
