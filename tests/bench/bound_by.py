"""Does `bound_by` agree with what happens to a step when its model is half as wide, and when its batch is four times as large?

    nanobench kv-sweep --model gpt2-nano,gpt2-mini,gpt2-small,gpt2 --batch 1-32*2 --new-tokens 4 --launches 3 --out DIR
    python tests/bench/bound_by.py DIR

Neither enters the rule. Half the width is a quarter of the weights: a step that still takes 5/8 of its time waits for its host.
Of the others, one that takes less than twice as long for four times the rows waits for its weights; else it multiplies.
The three are timed in turn, so that a machine which changes its speed changes all of them.
"""

import statistics
import sys
import time
from dataclasses import replace

import torch

import nanobench
from nanobench import registry
from nanobench.engines._compiler import Compiler
from nanobench.models import _packed_linear as packed_linear
from nanobench.models import gpt2
from nanobench.probes import memory
from nanobench.schema import Point

MOST_BATCH, MOST_S, ROUNDS = 16, 6.0, 15


def work(adapter, point, engine):
    """A step of a cached arm in the middle of its cache, a pass of an uncached one over prompt and half the output."""
    made = registry.find("engines", engine)(adapter, registry.find("samplers", "greedy")(), point, Compiler("off"))
    prompt_BT = torch.zeros((point.batch_size, point.prompt_len), dtype=torch.long)
    made.prefill(prompt_BT)
    if engine == "uncached":
        return lambda: made.prefill(prompt_BT)

    def step():
        made.seek(point.prompt_len)
        made.step()

    return step


def seconds(work):
    """One run."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(works):
    """Median seconds of each, run in turn for some rounds or seconds."""
    for each in works:
        each()
    rounds, start = [], time.perf_counter()
    while len(rounds) < 3 or (time.perf_counter() - start < MOST_S and len(rounds) < ROUNDS):
        rounds.append([seconds(each) for each in works])
    return [statistics.median(each) for each in zip(*rounds, strict=True)]


def half_as_wide(shape):
    """The same GPT-2 with half the heads and half the width."""
    sizes = {name: getattr(shape, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size", "block_size")}
    return gpt2.build(**{**sizes, "n_head": shape.n_head // 2, "n_embd": shape.n_embd // 2})


def main() -> None:
    """Prints a row per cell, and how many agree."""
    memory.keep_freed()
    cells = nanobench.load(sys.argv[1])
    cells = cells[cells["bound_by"].notna() & (cells["batch_size"] <= MOST_BATCH)]
    torch.set_num_threads(int(cells["threads"].max()))
    print("| model | arm | batch | step, ms | half the width | four times the batch | check says | bound_by | |")
    print("|---|---|--:|--:|--:|--:|---|---|---|")
    agree = 0
    for name, of_model in cells.groupby("model", sort=False):
        adapter = registry.find("models", name)()
        narrow = half_as_wide(adapter.shape)
        for each in (adapter, narrow):
            packed_linear.pack(each.module)
        for _, cell in of_model.sort_values(["arm_index", "batch_size"]).iterrows():
            point = Point(**{field: cell[field] for field in Point.__dataclass_fields__})
            larger = replace(point, batch_size=4 * point.batch_size)
            with torch.inference_mode():
                works = [work(*each, cell["engine"]) for each in ((adapter, point), (narrow, point), (adapter, larger))]
                here, half, four = medians(works)
            says = "host" if half / here > 5 / 8 else "bandwidth" if four / here < 2 else "compute"
            agree += says == cell["bound_by"]
            seen = f"{1e3 * here:.3g} | {half / here:.2f}x | {four / here:.2f}x | {says} | {cell['bound_by']}"
            print(f"| {name} | {cell['arm']} | {point.batch_size} | {seen} | {'' if says == cell['bound_by'] else 'differs'} |")
    print(f"\n{agree} of {len(cells)} agree")


if __name__ == "__main__":
    main()
