"""Cached generation whose step is captured once as a CUDA graph: the host launches one graph per token instead of ~150 kernels.

Position, newest token and cache are tensors that the captured step reads and writes, so a replay goes on where the last one
ended. Not run on a GPU so far.
"""

import torch

from nanobench.engines.base import Compiler
from nanobench.engines.cached import Cached
from nanobench.errors import Skip
from nanobench.models.base import Adapter
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
        self.graph = torch.cuda.CUDAGraph()
        if self.generator is not None:
            self.graph.register_generator_state(self.generator)
        reserved = torch.cuda.memory_reserved(self.tokens_BN.device)
        self.replayed_BV = self.capture()
        self.graph_bytes = torch.cuda.memory_reserved(self.tokens_BN.device) - reserved

    def capture(self) -> torch.Tensor:
        """The logits that every replay overwrites."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.pos_1.zero_()
                self._decode()
        torch.cuda.current_stream().wait_stream(side)
        self.pos_1.zero_()
        with torch.cuda.graph(self.graph):
            return self._decode()

    def step(self) -> int:
        """See Engine.step."""
        self.graph.replay()
        self.logits_BV = self.replayed_BV
        return 1


def build(adapter: Adapter, sampler: Sampler, point: Point, compiler: Compiler) -> CudaGraph:
    """Raises Skip on a CPU, for a compiled arm, and where the model has no static cache."""
    return CudaGraph(adapter, sampler, point, compiler)
