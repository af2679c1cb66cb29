"""nanobench from Python: sweeps that return DataFrames, comparisons, the search for a batch size, loading and drawing.

All of this is in `nanobench` itself. Nothing heavy is imported before a function is called.
"""

from nanobench.api.comparisons import ab, compare
from nanobench.api.sweeps import autobatch, kv_sweep, load, plot, train_throughput

__all__ = ["ab", "autobatch", "compare", "kv_sweep", "load", "plot", "train_throughput"]
