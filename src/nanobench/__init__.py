"""nanobench: how much the KV cache, torch.compile, the sampler and the batch size speed up a small GPT, and why."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(path: "str | Path" = "results") -> "pd.DataFrame":
    """The cells of a run, or of all runs below a folder, as a DataFrame: one row per cell, columns as in docs/columns.md.

    Raises nanobench.errors.UserError where there is no run.
    """
    from nanobench.results import store

    return store.load(path)
