"""What torch.compile did for one arm: graphs, recompilations and graph breaks, from dynamo's own records."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ADDED = ("Explanation:", "Developer debug context:")
"""How lines begin in which dynamo says more."""


@dataclass(frozen=True)
class Compilation:
    """Dynamo's counts for one arm; all None for an arm that compiles nothing."""

    compiled_graphs: int | None = None
    recompiles: int | None = None
    graph_breaks: int | None = None


def warm_vec_isa_cache() -> None:
    """Lets inductor find out what the processor can do, by compiling: seconds that are nobody's, kept in the user's cache.

    Where that fails, whoever compiles says so.
    """
    with suppress(Exception):
        from torch._inductor.cpu_vec_isa import pick_vec_isa
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir

        with inductor_cache_dir(Path(default_cache_dir())):
            pick_vec_isa()


@contextmanager
def own_cache(cache_key: str) -> Iterator[None]:
    """Inductor finds the graphs and kernels compiled under this owner's name in an earlier process, and nobody else's."""
    from torch._inductor.utils import clear_caches

    clear_caches()
    with inductor_cache_dir(cache_of(cache_key)):
        yield


@contextmanager
def inductor_cache_dir(folder: Path) -> Iterator[None]:
    """Inductor's cache is in a folder."""
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
    """The owner's folder in inductor's."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir()) / cache_key


class CompileCounters:
    """What dynamo did in this process since this was made. It imports dynamo, which takes a second."""

    def __init__(self) -> None:
        from torch._dynamo.utils import counters

        self.counters = counters
        self.before = {group: Counter(counters[group]) for group in ("stats", "frames", "graph_break")}

    def new(self, group: str) -> Counter[str]:
        """How much each counter of a group has grown."""
        return self.counters[group] - self.before[group]

    @property
    def graphs(self) -> int:
        """Compiled graphs."""
        return self.new("stats")["unique_graphs"]

    @property
    def breaks(self) -> int:
        """Graph breaks."""
        return self.new("graph_break").total()

    @property
    def eager(self) -> int:
        """Functions that were given up: they run eagerly, whatever was compiled around them."""
        frames = self.new("frames")
        return frames["total"] - frames["ok"]

    @property
    def cause(self) -> str:
        """Why graphs were broken most often, in dynamo's words."""
        causes = self.new("graph_break").most_common(1)
        return summarize_error(causes[0][0]) if causes else "dynamo tells no cause"


def summarize_error(text: str) -> str:
    """An error on one line: its first, and what dynamo's explanation and context add to it."""
    first, *others = text.strip().split("\n")
    added = [line.strip().partition(":")[2].strip() for line in others if line.strip().startswith(ADDED)]
    return ": ".join(part[:400] for part in (first, *added) if part)


def graph_skips() -> str:
    """How often inductor left a CUDA graph out in this process, in words."""
    from torch._dynamo.utils import counters

    return f"inductor left it out {counters['inductor']['cudagraph_skips']} times; its reason is in the log"


def recompiles_of(code_names: set[str]) -> int:
    """How often the functions with these code names were compiled again, and so ran slower for a while."""
    from torch._dynamo.utils import get_compilation_metrics

    return sum(entry.co_name in code_names and entry.recompile_reason is not None for entry in get_compilation_metrics())
