"""The effects of torch.compile on one arm, from dynamo's own records: graphs, recompilations and graph breaks."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

DETAILS = ("Explanation:", "Developer debug context:")
"""Prefixes of the lines with details in dynamo's messages."""


@dataclass(frozen=True)
class Compilation:
    """Dynamo's counts for one arm; all None for an arm that is not compiled."""

    compiled_graphs: int | None = None
    recompiles: int | None = None
    graph_breaks: int | None = None


def warm_vec_isa_cache() -> None:
    """Runs inductor's one-time probe of the CPU's vector instructions, so that no arm's first call includes its seconds.

    The result stays in the user's default cache. Errors are ignored: a later compilation reports them.
    """
    with suppress(Exception):
        from torch._inductor.cpu_vec_isa import pick_vec_isa
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir

        with inductor_cache_dir(Path(default_cache_dir())):
            pick_vec_isa()


@contextmanager
def own_cache(cache_key: str) -> Iterator[None]:
    """Within the context, inductor uses the cache of this key only: it reuses only what was compiled under the same key."""
    from torch._inductor.utils import clear_caches

    clear_caches()
    with inductor_cache_dir(cache_of(cache_key)):
        yield


@contextmanager
def inductor_cache_dir(folder: Path) -> Iterator[None]:
    """Within the context, inductor and Triton use this cache folder."""
    own = {"TORCHINDUCTOR_CACHE_DIR": str(folder), "TRITON_CACHE_DIR": str(folder / "triton")}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


def cache_of(cache_key: str) -> Path:
    """The cache folder of a key, inside inductor's."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir()) / cache_key


class CompileCounters:
    """Dynamo's counts in this process since the object was created. The constructor imports dynamo, which takes a second."""

    def __init__(self) -> None:
        from torch._dynamo.utils import counters

        self.counters = counters
        self.before = {group: Counter(counters[group]) for group in ("stats", "frames", "graph_break")}

    def new(self, group: str) -> Counter[str]:
        """The increase of each counter of a group."""
        return self.counters[group] - self.before[group]

    @property
    def graphs(self) -> int:
        """Number of compiled graphs."""
        return self.new("stats")["unique_graphs"]

    @property
    def breaks(self) -> int:
        """Number of graph breaks."""
        return self.new("graph_break").total()

    @property
    def eager(self) -> int:
        """Number of functions that dynamo could not compile: they run eagerly."""
        frames = self.new("frames")
        return frames["total"] - frames["ok"]

    @property
    def cause(self) -> str:
        """The most frequent cause of graph breaks, in dynamo's words."""
        causes = self.new("graph_break").most_common(1)
        return summarize_error(causes[0][0]) if causes else "dynamo reports no cause"


def summarize_error(text: str) -> str:
    """An error message on one line: its first line, and the details that dynamo adds."""
    first, *others = text.strip().split("\n")
    details = [line.strip().partition(":")[2].strip() for line in others if line.strip().startswith(DETAILS)]
    return ": ".join(part[:400] for part in (first, *details) if part)


def graph_skips() -> str:
    """A message with the number of CUDA graphs that inductor skipped in this process."""
    from torch._dynamo.utils import counters

    return f"inductor skipped {counters['inductor']['cudagraph_skips']} CUDA graphs; the log has the reasons"


def recompiles_of(code_names: set[str]) -> int:
    """The number of recompilations of the functions with these code names."""
    from torch._dynamo.utils import get_compilation_metrics

    return sum(entry.co_name in code_names and entry.recompile_reason is not None for entry in get_compilation_metrics())
