"""The knee of a throughput curve: the batch size above which throughput grows little."""

from collections.abc import Mapping

NEAR_BEST = 0.02
"""The knee is the smallest batch whose throughput is within this share of the best."""


def knee(rates: Mapping[int, float]) -> int:
    """The smallest batch size within NEAR_BEST of the best rate."""
    return min(batch for batch, rate in rates.items() if rate >= (1 - NEAR_BEST) * max(rates.values()))
