"""Makes docs/seeds.md from the published figures in results/seeds: `python docs/make_seeds_page.py > docs/seeds.md`.

Everything is closed form: bytes and operations of nanochat-d12 from `nanobench.costs`, peaks from the A100's data sheet.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from nanobench import costs, datasheet, lookup
from nanobench.costs import NOTHING, Cost, Pass
from nanobench.schema import DTYPE_BYTES, Point

FIGURES = Path(__file__).parents[1] / "results" / "seeds" / "seed_results.csv"
SHEET = datasheet.named("a100-80gb")
MODEL, DTYPE = "nanochat-d12", "bfloat16"
PEAK = SHEET.flops[DTYPE]
PATHS = {"uncached": "uncached-full-logits", "cached": "cat"}
"""The cached arm fills a preallocated cache and attends over the filled part: as `cat` does, without its copies."""
EXPLAINED = 0.5
"""A floor explains a step that is at most twice as long."""
FLAT = 1.1
with torch.device("meta"):
    SHAPE = lookup.find("models", MODEL)().shape

Row = dict[str, str]


@dataclass(frozen=True)
class Cell:
    """One published throughput, and what a pass of it costs on average."""

    arm: str
    point: Point
    tok_s: float

    @property
    def step_s(self) -> float:
        """Mean seconds of a pass."""
        return self.point.batch_size / self.tok_s

    @cached_property
    def passes(self) -> list[Pass]:
        """The prefill and the steps behind it."""
        return costs.PATHS[PATHS[self.arm]](self.point)

    @cached_property
    def cost(self) -> Cost:
        """Of the whole call."""
        return executed(self.passes)

    @property
    def read_s(self) -> float:
        """The least time to read a pass's weights and cache."""
        positions = sum(one.rows * one.context for one in self.passes) if self.arm == "cached" else 0
        return self.moving_s(self.cost.weight_bytes + positions * SHAPE.kv_bytes_per_token(DTYPE))

    @property
    def multiply_s(self) -> float:
        """The least time to multiply what a pass multiplies."""
        return self.cost.flops / PEAK / self.point.new_tokens

    @property
    def floor_s(self) -> float:
        """The larger of the two."""
        return max(self.read_s, self.multiply_s)

    @property
    def mfu(self) -> float:
        """Useful operations over the peak."""
        return costs.useful_flops(SHAPE, self.point) / PEAK / self.point.new_tokens / self.step_s

    def moving_s(self, moved_bytes: float) -> float:
        """A pass's share of the least time to move so many bytes of a call."""
        return moved_bytes / SHEET.bytes_per_s / self.point.new_tokens

    def bound_by(self, arm: list["Cell"]) -> str:
        """The rule of the page, given all cells of the arm."""
        if self.floor_s >= EXPLAINED * self.step_s:
            return "bandwidth" if self.read_s > self.multiply_s else "compute"
        return "host" if any(self.is_flat_to(other) for other in arm) else "unexplained"

    def is_flat_to(self, other: "Cell") -> bool:
        """Whether at least twice the batch makes no difference."""
        fewer, more = sorted((self.point.batch_size, other.point.batch_size))
        return more >= 2 * fewer and max(self.step_s, other.step_s) <= FLAT * min(self.step_s, other.step_s)


def executed(passes: Iterable[Pass]) -> Cost:
    """The cost of all passes."""
    return sum((costs.cost(SHAPE, DTYPE, one) for one in passes), NOTHING)


def published() -> list[Row]:
    """All rows of the file."""
    with FIGURES.open(newline="") as lines:
        return list(csv.DictReader(lines))


def is_generation(row: Row) -> bool:
    """Whether a row gives a step: a throughput of known batch and lengths."""
    return row["unit"] == "output_tok_s" and row["prompt_len"] != ""


def is_training(row: Row) -> bool:
    """The same for training."""
    return row["unit"] == "train_tok_s" and row["kind"].startswith("measured")


def cells_of(arm: str) -> list[Cell]:
    """All cells of an arm, in rising batch size."""
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
    """A Markdown table; a colon behind a name puts the column to the right."""
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
    names = "batch:|tok/s:|ms per step:|reading, ms:|multiplying, ms:|step over the larger:|MBU:|MFU:|HFU:|bound by"
    return table(names, rows)


def speedups() -> str:
    """What was published beside what the floors would allow."""
    rows = (
        [
            str(cached.point.batch_size),
            f"{cached.tok_s / uncached.tok_s:.2f}",
            f"{uncached.floor_s / cached.floor_s:.1f}",
            f"{uncached.cost.flops / cached.cost.flops:.1f}",
            f"{costs.naive_speedup(cached.point):.1f}",
        ]
        for uncached, cached in zip(cells_of("uncached"), cells_of("cached"), strict=True)
    )
    return table("batch:|published:|larger floors:|executed operations:|tokens read:", rows)


def training() -> str:
    """Forward and backward passes."""
    return table("phase|batch:|length:|tok/s:|ms per step:|HFU:", map(training_row, filter(is_training, published())))


def training_row(row: Row) -> list[str]:
    """One row of training."""
    batch_size, seq_len, tok_s = int(row["batch_size"]), int(row["seq_len"]), float(row["value"])
    step, seconds = costs.training_step(SHAPE, DTYPE, batch_size, seq_len), batch_size * seq_len / tok_s
    hfu = (step.forward_flops + step.backward_flops) / PEAK / seconds
    return [row["what"], str(batch_size), str(seq_len), f"{tok_s:,.0f}", ms(seconds, 1), percent(hfu)]


def left_out() -> str:
    """Rows that give no step, each with the reason."""
    rows = (
        [row["source"], row["what"], row["arm"], row["batch_size"], f"{row['value']} {row['unit']}", why_not(row)]
        for row in published()
        if not is_generation(row) and not is_training(row)
    )
    return table("source|what|arm|batch:|published:|why it gives no step", rows)


def why_not(row: Row) -> str:
    """Why a row gives no step."""
    if row["unit"] in ("ratio", "seconds"):
        return "no throughput"
    if not row["kind"].startswith("measured"):
        return row["kind"]
    seconds = int(row["batch_size"]) / float(row["value"])
    unknown = "the CPU is" if row["hardware"].startswith("CPU") else "lengths are"
    return f"{unknown} not named; {ms(seconds)} ms per step"


def facts() -> dict[str, str]:
    """The figures in the page's sentences."""
    uncached, cached = cells_of("uncached"), cells_of("cached")
    host = [cell for cell in uncached if cell.bound_by(uncached) == "host"]
    busy = [cell for cell in uncached if cell.bound_by(uncached) == "unexplained"]
    first, last, slowest = cached[0], cached[-1], uncached[-1]
    weights_s = SHAPE.read_params * DTYPE_BYTES[DTYPE] / SHEET.bytes_per_s
    head = 1 - executed(costs.uncached(slowest.point)).matmul_flops / slowest.cost.matmul_flops
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
        "naive": f"{costs.naive_speedup(last.point):.1f}",
        "speedup": f"{last.tok_s / slowest.tok_s:.2f}",
        "last_ms": ms(last.step_s, 1),
        "floors": f"{slowest.floor_s / last.floor_s:.0f}",
    }


PAGE = """\
# The seeds' table, explained
nanobench grew from published figures of others, kept with their sources in [results/seeds](../results/seeds/README.md).
This page asks what follows from them. **Nothing here was measured by us**: every figure is derived from a published one,
from the closed forms in `nanobench.costs` and from a data sheet. `python docs/make_seeds_page.py > docs/seeds.md` makes it.

nanochat d12 (12 layers, 768 wide, 12 heads over 6 key-value heads, vocabulary 65,536; {n_params}M parameters, of which
every pass reads {read_params}M) in bfloat16 on an A100 80 GB SXM, prompt 50, 200 new tokens. The uncached arm computes logits
at every position and throws all but the last away. Each cell was timed once: nothing is known of its spread.

## How a row is read
- *Step*: batch / (tok/s), the mean of a call's 200 passes, prefill included.
- *Reading*: the weights, and in the cached arm the filled part of the cache, at {bandwidth} TB/s.
  *Multiplying*: all operations that are executed, at {peak} TFLOP/s, dense ({sheet}). No step can be shorter than either.
- MBU is reading / step, HFU is multiplying / step; MFU counts only what the same tokens need at least.
- *Bound by*: `bandwidth` or `compute` where the larger of the two is at least half of the step. Otherwise `host` where the
  step is flat: a cell of the same arm with at least twice or at most half the batch takes the same time within a tenth.
  Otherwise `unexplained`: time grows with the work, and neither peak accounts for it.

## Without a cache
{uncached}

## With a cache
{cached}

## What follows
- **The cached arm waits for its host at every batch size.** Its step takes {cached_ms} ms whatever the batch is: at batch 1
  {over_weights} times the {weights_ms} ms that reading the weights takes, at batch {last}, with {last} times the work, still
  {over_last} times what weights and cache take. What costs the same whatever the work is paid per operation: by the host,
  which launches kernels one by one. A kernel's own shortest duration would look alike from here; a profiler tells them apart.
- **At batch {host_batches} the uncached arm stands on the same floor**: {host_ms} ms, though it executes {more} times the
  operations. Two arms that wait for the same launches take the same time: hence the published "no benefit".
- **At batch 1 this GPU leaves a cache little to win even without that floor.** One reading of the weights serves {context}
  tokens of the uncached arm, and the A100 multiplies about as many in the time ({balance} operations per byte): the floors of
  the two arms are {first_floors} ms.
- **Memory-bound at batch 1? No**: MBU is {first_mbu}. **Compute-bound at batch {last}? No**: MFU is {last_mfu}, MBU {last_mbu}.
  The published utilization of about 90 % is no evidence: none of the scripts reads one, and a share of time in which some
  kernel ran would not say how much it did.
- **From batch {busy_from}, where that floor is left, the uncached arm is busy, with nothing that this table shows.** Its step
  is {busy_low} to {busy_high} times what multiplying takes and grows with the batch. At batch {last} it takes {slowest_ms} ms;
  multiplying takes {multiply_ms} ms, and moving what its products, norms, activations, additions and logits read and write
  {moving_ms} ms. Slow kernels, an allocator that grows with each longer pass (the warm-up had one row and 5 new tokens) or a
  shared GPU could be the reason. {head} of its products with weights give logits that nobody reads.
- **{speedup} is therefore an unexplained {slowest_ms} ms over a host-bound {last_ms} ms**, not what a cache is worth. The
  published bound of {naive} counts tokens read ({tokens} / {total_len}), as if time were tokens; the floors allow {floors}.
  Attention's share explains nothing of the gap: it is {attention} of the uncached arm's operations.
- **What would help is fewer launches.** A decode step that is compiled or captured as one can gain up to {over_first} times at
  batch 1 and {over_last} times at batch {last} before memory binds it. The published scripts do not try it.

Cached over uncached, as published and as a ratio of other things:

{speedups}

## Training
Forward and backward pass without an optimizer step, causal attention counted in full. The larger batch reaches a quarter of
the peak; the utilizations printed beside these rows, up to 92 %, have no reading behind them.

{training}

## Rows that give no step
{left_out}
"""


def page() -> str:
    """The whole page."""
    tables = {"uncached": generation("uncached"), "cached": generation("cached"), "speedups": speedups()}
    return PAGE.format(**facts(), **tables, training=training(), left_out=left_out())


if __name__ == "__main__":
    print(page(), end="")
