"""Cached generation with the step captured as a CUDA graph: the host launches one graph per token instead of ~150 kernels.

Position, tokens and cache are tensors that the captured step reads and writes, so a replay continues where the last one
ended. The number of attended positions is fixed in a graph, so a long cache needs several graphs. A compile mode compiles the
step of each graph before its capture. Not run on a GPU so far.
"""

import gc

import torch

from nanobench.engines._compiler import Compiler
from nanobench.engines.cached import Cached
from nanobench.errors import Skip
from nanobench.models.base import Adapter
from nanobench.roofline import flops
from nanobench.samplers.base import Sampler
from nanobench.schema import GRAPH_MODES, Point

WARM_UPS = 3
"""Steps before the capture, in which libraries make the allocations that are not allowed during a capture."""


class CudaGraph(Cached):
    """Captures its graphs in the constructor, outside of all timed repetitions."""

    def __init__(self, adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> None:
        if compiler.mode in GRAPH_MODES:
            raise Skip(f"{compiler.mode} captures graphs of its own: use it with --engine cached")
        if compiler.mode == "dynamic":
            raise Skip("a graph has fixed shapes: use the compile mode default")
        if not point.device.startswith("cuda"):
            raise Skip(f"cuda-graph needs a CUDA device, not {point.device}")
        super().__init__(adapter, sampler, point, compiler)
        self.kv_access = "buckets" if hasattr(self.cache, "attend_to") else "static"
        in_buckets, total_len = self.kv_access == "buckets", point.total_len
        lengths = {flops.bucket(n, total_len) if in_buckets else total_len for n in range(point.prompt_len + 1, total_len)}
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self.graph_bytes = 0
        if not lengths:
            return
        # Each length is a function of its own for the compiler, which specialises it.
        self.decode_at = {length: compiler(self._decode) for length in lengths}
        # One stream for warm-up and capture: libraries keep a workspace per stream, and the graphs must find the same one.
        self.side = torch.cuda.Stream(self.tokens_BN.device)
        self.warm_up(max(lengths))
        # A capture releases unused reserved blocks: release them before, so that the difference is the graphs' memory. Engines
        # that are gone may wait in a cycle, with the memory of their graphs.
        gc.collect()
        torch.cuda.empty_cache()
        reserved, self.pool = torch.cuda.memory_reserved(self.tokens_BN.device), torch.cuda.graph_pool_handle()
        # The longest first: the others reuse its memory in the pool.
        self.graphs = {length: self.capture(length) for length in sorted(lengths, reverse=True)}
        self.graph_bytes = torch.cuda.memory_reserved(self.tokens_BN.device) - reserved

    def capture(self, length: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """The graph of a step that attends to `length` positions, and the logits [B, V] that every replay overwrites."""
        self.warm_up(length)
        graph = torch.cuda.CUDAGraph()
        if self.generator is not None:
            graph.register_generator_state(self.generator)
        self.pos_1.zero_()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.side):
            return graph, self.decode_at[length]()

    def warm_up(self, length: int) -> None:
        """Steps that attend to `length` positions, on the stream of the captures. In a compile mode, the first one compiles."""
        self.attend_to(length, masked=True)
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side):
            for _ in range(WARM_UPS):
                self.pos_1.zero_()
                self.decode_at[length]()
        torch.cuda.current_stream().wait_stream(self.side)

    def step(self) -> int:
        """See Engine.step."""
        self.length += 1
        graph, self.logits_BV = self.graphs[next(length for length in reversed(self.graphs) if length >= self.length)]
        graph.replay()
        return 1


def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> CudaGraph:
    """Raises Skip on a CPU, for a mode that captures by itself, and if the model has no static cache."""
    return CudaGraph(adapter, sampler, point, compiler)
