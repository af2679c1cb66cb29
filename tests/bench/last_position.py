"""The cost of an lm_head over last positions that are not contiguous in memory, paired with contiguous ones in one process.

python tests/bench/last_position.py
"""

import math
import statistics
import time

import torch
import torch.nn.functional as F

from nanobench.stats import intervals

WIDTH, VOCAB, TOKENS, PAIRS = 768, 50_257, 50, 9


def seconds(x_B1C: torch.Tensor, head_VC: torch.Tensor) -> float:
    """The time of one matmul."""
    start = time.perf_counter()
    F.linear(x_B1C, head_VC)
    return time.perf_counter() - start


def main() -> None:
    """Prints a row per batch size."""
    head_VC = torch.full((VOCAB, WIDTH), 0.01)
    print("| batch | strided, ms | contiguous, ms | ratio |")
    print("|--:|--:|--:|--:|")
    for batch_size in (1, 4, 8, 16, 32):
        strided = torch.full((batch_size, TOKENS, WIDTH), 0.01)[:, -1:]
        contiguous = strided.contiguous()
        pairs = [(seconds(strided, head_VC), seconds(contiguous, head_VC)) for _ in range(PAIRS + 1)][1:]
        ratio = intervals.ratio([[math.log(slow / fast) for slow, fast in pairs]])
        medians = " | ".join(f"{1e3 * statistics.median(each):.1f}" for each in zip(*pairs, strict=True))
        print(f"| {batch_size} | {medians} | {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] |")


if __name__ == "__main__":
    main()
