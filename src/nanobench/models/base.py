"""The contract that every model meets, built-in or plug-in.

Shapes: B rows, T tokens, V vocabulary.
"""

from typing import Any, Protocol

from torch import Tensor, nn

from nanobench.schema import GPTShape


class Adapter(Protocol):
    """The interface of a model. `build(**arguments)` makes one; the worker moves `module` to device and dtype."""

    module: nn.Module
    shape: GPTShape

    def forward(self, idx_BT: Tensor, targets_BT: Tensor | None = None, last_only: bool = False) -> Tensor:
        """Logits [B, T, V], or [B, 1, V] if `last_only`; with targets [B, T] the mean loss over targets that are not -1."""
        ...

    def make_cache(self, batch_size: int, max_len: int, kind: str) -> Any:
        """An empty cache of kind 'static' (preallocated for `max_len` tokens) or 'cat' (grown by torch.cat).

        Raises Skip for a kind that the model does not have.
        """
        ...

    def forward_cached(self, idx_BT: Tensor, pos_T: Tensor, cache: Any, last_only: bool = True) -> tuple[Tensor, Any]:
        """Logits of new tokens [B, T] at positions [T], shaped as in `forward`, and the cache that includes the new tokens.

        The returned cache may be the same object or a new one.
        """
        ...
