"""Cached generation whose step is captured as a CUDA graph: the host launches one graph per token instead of ~150 kernels.

Position, newest token and cache are tensors that the captured step reads and writes, so a replay goes on where the last one
ended. How far it looks into the cache is fixed in a graph, so a long cache has several. Not run on a GPU so far.
"""

import torch

from nanobench.engines._compiler import Compiler
from nanobench.engines.cached import Cached
from nanobench.errors import Skip
from nanobench.models.base import Adapter
from nanobench.roofline import flops
from nanobench.samplers.base import Sampler
from nanobench.schema import Point

WARM_UPS = 3
"""Eager steps before the capture, in which libraries allocate what they may not allocate in it."""


class CudaGraph(Cached):
    """Captures when it is built, which no repetition times."""

    def __init__(self, adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> None:
        if compiler.compiles:
            raise Skip("cuda-graph captures an eager step; for a compiled one: --engine cached --compile-mode reduce-overhead")
        if not point.device.startswith("cuda"):
            raise Skip(f"a CUDA graph needs a CUDA device, and this is {point.device}")
        super().__init__(adapter, sampler, point, compiler)
        self.kv_access = "buckets" if self.kv_access == "prefix" else "static"
        lengths = range(point.prompt_len + 1, point.total_len)
        seen = {flops.bucket(length, point.total_len) if self.kv_access == "buckets" else point.total_len for length in lengths}
        # A capture gives unused blocks back, which were reserved before.
        torch.cuda.empty_cache()
        reserved, self.pool = torch.cuda.memory_reserved(self.tokens_BN.device), torch.cuda.graph_pool_handle()
        # The longest first: the others find its memory in the pool.
        self.graphs = {each: self.capture(each) for each in sorted(seen, reverse=True)}
        self.graph_bytes = torch.cuda.memory_reserved(self.tokens_BN.device) - reserved

    def capture(self, seen: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """The graph of a step that looks at so many positions, and the logits that every replay overwrites."""
        self.attend_to(seen, masked=True)
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        if self.generator is not None:
            graph.register_generator_state(self.generator)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.pos_1.zero_()
                self._decode()
        torch.cuda.current_stream().wait_stream(side)
        self.pos_1.zero_()
        with torch.cuda.graph(graph, pool=self.pool):
            return graph, self._decode()

    def step(self) -> int:
        """See Engine.step."""
        self.length += 1
        graph, self.logits_BV = self.graphs[next(seen for seen in reversed(self.graphs) if seen >= self.length)]
        graph.replay()
        return 1


def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> CudaGraph:
    """Raises Skip on a CPU, for a compiled arm, and where the model has no static cache."""
    return CudaGraph(adapter, sampler, point, compiler)
