"""What does one matmul for query, key and value gain over three? Time of the three over the time of the one, in turns.

    python tests/bench/fused_layers.py

Both have packed weights where this CPU packs them. Prints a table in Markdown: the mean ratio with its 95 % interval.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nanobench.models import _packed_linear as packed_linear
from nanobench.models._packed_linear import Fusible, Linear
from nanobench.stats.intervals import t_interval

SIZES = {"nanochat-nano, 64": (64, 64), "llama-110m, 768": (768, 768), "grouped, 2048": (2048, 512)}
"""Name -> width of the input and the queries, width of keys and of values."""
ROWS = (1, 2, 4, 8, 16, 32)
PAIRS, LEAST_S = 40, 0.004


class Projections(Fusible):
    """Query, key and value of a layer."""

    fusible = ("query", "key", "value")

    def __init__(self, width: int, kv_width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (Linear(width, out, bias=False) for out in (width, kv_width, kv_width))


def seconds(work: Callable[[], object], calls: int) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def ratio(width: int, kv_width: int, rows: int) -> str:
    """The cell of the table."""
    alone, fused = Projections(width, kv_width), Projections(width, kv_width)
    for part in alone.modules():
        if isinstance(part, Linear):
            part.pack()
    packed_linear.pack(nn.ModuleList([fused]))
    x: Tensor = torch.randn(rows, 1, width)
    calls = max(1, round(LEAST_S / seconds(lambda: alone.project(x), 5)))
    logs = []
    for pair in range(PAIRS):
        order = (alone, fused) if pair % 2 else (fused, alone)
        took = {id(each): seconds(lambda each=each: each.project(x), calls) for each in order}
        logs.append(math.log(took[id(alone)] / took[id(fused)]))
    value, low, high = (math.exp(each or 0.0) for each in t_interval(logs))
    return f"{value:.2f}x [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Prints a row per size."""
    torch.manual_seed(0)
    print("| rows |", " | ".join(map(str, ROWS)), "|")
    print("|---|" + "--:|" * len(ROWS))
    with torch.inference_mode():
        for name, (width, kv_width) in SIZES.items():
            print(f"| {name} |", " | ".join(ratio(width, kv_width, rows) for rows in ROWS), "|", flush=True)


if __name__ == "__main__":
    main()
