"""nanobench: how much the KV cache, torch.compile, the sampler and the batch size speed up a small GPT, and why."""

from nanobench.api import ab, autobatch, compare, kv_sweep, load, plot, train_throughput

__all__ = ["__version__", "ab", "autobatch", "compare", "kv_sweep", "load", "plot", "train_throughput"]
__version__ = "0.1.0"
