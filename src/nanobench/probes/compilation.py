"""What torch.compile did for one arm: graphs, recompilations and graph breaks, from dynamo's own records."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Compilation:
    """Dynamo's counts for one arm; all None for an arm that compiles nothing."""

    graphs: int | None = None
    recompiles: int | None = None
    graph_breaks: int | None = None


def graphs_so_far() -> int:
    """Graphs compiled in this process. Imports dynamo, which takes a second: ask only where something compiles."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def graph_breaks_so_far() -> int:
    """Graph breaks met in this process."""
    from torch._dynamo.utils import counters

    return sum(counters["graph_break"].values())


def graph_skips() -> str:
    """How often inductor left a CUDA graph out in this process, in words."""
    from torch._dynamo.utils import counters

    return f"inductor left it out {counters['inductor']['cudagraph_skips']} times; its reason is in the log"


def recompiles_of(code_names: set[str]) -> int:
    """How often the functions with these code names were compiled again, and so ran slower for a while."""
    from torch._dynamo.utils import get_compilation_metrics

    return sum(entry.co_name in code_names and entry.recompile_reason is not None for entry in get_compilation_metrics())
