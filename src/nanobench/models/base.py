"""The contract that every model meets, ours and foreign, and the two key-value caches that our own models share.

Shapes: B rows, T tokens, C width, V vocabulary, H heads, K key-value heads, D head width, S cached tokens.
"""

from typing import Any, Protocol

from torch import Tensor, nn

from nanobench.schema import GPTShape


class Adapter(Protocol):
    """What nanobench asks of a model. `build(**arguments)` makes one; the worker moves `module` to device and dtype."""

    module: nn.Module
    shape: GPTShape

    def forward(self, idx_BT: Tensor, targets_BT: Tensor | None = None, last_only: bool = False) -> Tensor:
        """Logits [B, T, V], or [B, 1, V] where `last_only`; with targets the mean loss (none where one is -1), a scalar."""
        ...

    def make_cache(self, batch_size: int, max_len: int, kind: str) -> Any:
        """An empty cache, 'static' (preallocated for `max_len` tokens) or 'cat' (grown). Raises Skip for a kind it lacks."""
        ...

    def forward_cached(self, idx_BT: Tensor, pos_T: Tensor, cache: Any, last_only: bool = True) -> tuple[Tensor, Any]:
        """Logits of the new tokens at positions `pos_T`, and the cache that now holds them: the same object or a new one."""
        ...
