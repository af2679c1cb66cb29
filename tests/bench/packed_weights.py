"""`F.linear` compared with the same layers with packed weights: every matrix of a GPT-2 124M, paired, one process.

python tests/bench/packed_weights.py        about a minute

There are so many layers of each shape that they do not fit in a cache.
"""

import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from nanobench.models._packed_linear import Linear
from nanobench.stats import intervals

SHAPES = {"out": (768, 768), "qkv": (768, 2304), "up": (768, 3072), "down": (3072, 768), "lm_head": (768, 50_257)}
ROWS, PAIRS, MIN_BYTES = (1, 2, 4, 8, 16, 32, 400), 7, 160 << 20


def seconds(work: Callable[[], object]) -> float:
    """One run."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(layers: list[Linear], x: torch.Tensor, forwards: bool) -> tuple[float, float]:
    """Seconds of F.linear and of the packed weights over all layers, in this order or the other."""
    works = {
        "plain": lambda: [F.linear(x, layer.weight, layer.bias) for layer in layers],
        "packed": lambda: [layer(x) for layer in layers],
    }
    took = {name: seconds(works[name]) for name in (works if forwards else reversed(works))}
    return took["plain"], took["packed"]


def main() -> None:
    """Prints a row per matrix and number of rows."""
    print("| matrix | rows | F.linear, GB/s | packed, GB/s | ratio of times [95 %] |")
    print("|---|--:|--:|--:|--:|")
    with torch.inference_mode():
        for name, (width, out) in SHAPES.items():
            layers = [Linear(width, out) for _ in range(-(-MIN_BYTES // (4 * width * out)))]
            for layer in layers:
                layer.pack()
            for rows in ROWS if name != "lm_head" else ROWS[:-1]:
                x = torch.randn(rows, width)
                pairs = [in_turn(layers, x, forwards=pair % 2 == 0) for pair in range(PAIRS + 1)][1:]
                ratio = intervals.ratio([[math.log(slow / fast) for slow, fast in pairs]])
                read = 4e-9 * width * out * len(layers)
                rates = " | ".join(f"{read / statistics.median(each):.1f}" for each in zip(*pairs, strict=True))
                interval = f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"
                print(f"| {name} {width} to {out} | {rows} | {rates} | {interval} |", flush=True)


if __name__ == "__main__":
    main()
