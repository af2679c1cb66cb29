"""Ready adapters for modules of other projects: without a cache, with a cache object, with a tuple of past keys and values.

`call(module, idx_BT, last_only, **cache)` says how a module is called; without it, it is `module(idx_BT, **cache)`. It gives
logits, a tuple that begins with them, or an object with `.logits`. All functions that an adapter takes are called with the
module, because the gate calls them with a copy of it in another dtype.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nanobench.errors import Skip, UserError
from nanobench.models._module_shape import shape_of_module
from nanobench.schema import GPTShape

Function = Callable[..., Any]


def call_plainly(module: nn.Module, idx_BT: Tensor, last_only: bool, **cache: Any) -> Any:
    """How a module is called unless an adapter says it."""
    return module(idx_BT, **cache)


def logits_of(output: Any) -> Tensor:
    """The logits in what a module returns. Raises ValueError where there are none."""
    found = output[0] if isinstance(output, tuple | list) and output else getattr(output, "logits", output)
    if isinstance(found, Tensor) and found.dim() == 3:
        return found
    raise ValueError(f"the module returns a {type(output).__name__}, not logits [B, T, V]; give the adapter a call=")


def logits_and_past(output: Any) -> tuple[Tensor, Any]:
    """The logits, and the keys and values of all tokens so far: the last of a tuple, or `.past_key_values`."""
    return logits_of(output), output[-1] if isinstance(output, tuple | list) else output.past_key_values


def without_a_module(name: str, function: Function | None) -> None:
    """Raises UserError for a function that keeps a module of its own: the gate would compare that module with itself."""
    for cell in getattr(function, "__closure__", None) or ():
        if isinstance(cell.cell_contents, nn.Module):
            raise UserError(f"{name} of an adapter uses a module from around it; use the module that is its first argument")


class UncachedAdapter:
    """An Adapter of a module without a cache: arms that need one become `skipped` rows.

    `loss(module, idx_BT, targets_BT)` is the module's own mean loss, for training; without it, the loss is the cross entropy of
    the logits. The sizes are those of `shape`, or those that `shape_of_module` finds with `architecture` and `sizes`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        call: Function = call_plainly,
        loss: Function | None = None,
        shape: GPTShape | None = None,
        architecture: str | None = None,
        **sizes: int,
    ) -> None:
        without_a_module("call", call)
        without_a_module("loss", loss)
        if shape is not None and (architecture is not None or sizes):
            names = [*(["architecture"] if architecture is not None else []), *sizes]
            raise UserError(f"shape= has all sizes, so {', '.join(names)} would be ignored; leave out one of them")
        self.module = module
        self.shape = shape or shape_of_module(module, architecture=architecture, **sizes)
        self.call, self.loss = call, loss

    def forward(self, idx_BT: Tensor, targets_BT: Tensor | None = None, last_only: bool = False) -> Tensor:
        """See Adapter.forward."""
        if targets_BT is not None and self.loss is not None:
            loss: Tensor = self.loss(self.module, idx_BT, targets_BT)
            return loss
        logits_BTV = self.positions(logits_of(self.call(self.module, idx_BT, last_only)), idx_BT, last_only)
        if targets_BT is None:
            return logits_BTV
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=-1)

    def positions(self, logits_BTV: Tensor, idx_BT: Tensor, last_only: bool) -> Tensor:
        """The logits of the last position, or of all. Raises ValueError if the module gives fewer."""
        if last_only:
            return logits_BTV if logits_BTV.shape[1] == 1 else logits_BTV[:, -1:]
        if logits_BTV.shape[1] == idx_BT.shape[1]:
            return logits_BTV
        raise ValueError(
            f"the module gives logits at {logits_BTV.shape[1]} of {idx_BT.shape[1]} positions; "
            "give the adapter a call= that gives all of them unless last_only"
        )

    def make_cache(self, batch_size: int, max_len: int, kind: str) -> Any:
        """See Adapter.make_cache."""
        raise Skip(f"{self.shape.architecture} has no key-value cache")

    def forward_cached(self, idx_BT: Tensor, pos_T: Tensor, cache: Any, last_only: bool = True) -> tuple[Tensor, Any]:
        """See Adapter.forward_cached."""
        raise Skip(f"{self.shape.architecture} has no key-value cache")

    def refuse_other_kinds(self, kind: str, own: str) -> None:
        """Raises Skip for a kind of cache that the module does not have."""
        if kind != own:
            raise Skip(f"the cache of {self.shape.architecture} is of kind {own!r}; there is none of kind {kind!r}")


class OwnCache:
    """The cache object of a module, of which a step reads every position, as in a static cache with a mask."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def begins(self, pos_T: Tensor) -> bool:
        """Whether a pass over tokens at these positions is the first one of a call. Raises UserError on a GPU, where each step
        would wait for the device to say so.
        """
        if pos_T.is_cuda:
            raise UserError("on a GPU, reset= with reads_all=True would read a position in each step; give seek= or positions=")
        return int(pos_T[0]) == 0


class OwnPrefixCache(OwnCache):
    """The cache object of a module, of which a step reads the filled positions."""

    length: int | None = None

    def attend_to(self, length: int, masked: bool) -> None:
        """See StaticCache.attend_to: here it only says where a call begins, so that no position is read from the device."""
        self.length = length

    def begins(self, pos_T: Tensor) -> bool:
        """See OwnCache.begins."""
        return int(pos_T[0]) == 0 if self.length is None else self.length == len(pos_T)


class KwargCacheAdapter(UncachedAdapter):
    """An Adapter of a module that takes a cache object of its own as a keyword argument, `module(idx_BT, kv_cache=cache)`.

    `make(module, batch_size, max_len, device, dtype)` makes an empty one. A cache of kind `static` is used again in each call.
    Say how its position is set back: `reset(cache)` empties it before the first pass of a call, `seek(cache, pos_T)` sets it
    before every pass to the positions of the tokens, or `positions` is the keyword by which the module takes them. A cache of
    kind `cat` is made for each call. `reads_all`: whether a step reads every position of the cache, with empty ones masked.
    """

    def __init__(
        self,
        module: nn.Module,
        make: Function,
        *,
        keyword: str = "kv_cache",
        reset: Function | None = None,
        seek: Function | None = None,
        positions: str | None = None,
        kind: str = "static",
        reads_all: bool = False,
        **others: Any,
    ) -> None:
        super().__init__(module, **others)
        if kind not in ("static", "cat"):
            raise UserError(f"{kind!r} is not a kind of cache; give kind='static' or kind='cat'")
        if kind == "static" and not (reset or seek or positions):
            raise UserError(f"the static cache of {self.shape.architecture} is never emptied; give reset=, seek= or positions=")
        for name, function in (("make", make), ("reset", reset), ("seek", seek)):
            without_a_module(name, function)
        self.make, self.keyword, self.reset, self.seek = make, keyword, reset, seek
        self.position_keyword, self.kind, self.reads_all = positions, kind, reads_all

    def make_cache(self, batch_size: int, max_len: int, kind: str) -> OwnCache:
        """See Adapter.make_cache."""
        self.refuse_other_kinds(kind, self.kind)
        weights = next(self.module.parameters())
        own = self.make(self.module, batch_size, max_len, weights.device, weights.dtype)
        return OwnCache(own) if self.reads_all else OwnPrefixCache(own)

    def forward_cached(self, idx_BT: Tensor, pos_T: Tensor, cache: OwnCache, last_only: bool = True) -> tuple[Tensor, OwnCache]:
        """See Adapter.forward_cached."""
        if self.reset is not None and cache.begins(pos_T):
            self.reset(cache.own)
        if self.seek is not None:
            self.seek(cache.own, pos_T)
        keywords = {self.keyword: cache.own} | ({self.position_keyword: pos_T} if self.position_keyword else {})
        output = self.call(self.module, idx_BT, last_only, **keywords)
        return self.positions(logits_of(output), idx_BT, last_only), cache


class PastKVAdapter(UncachedAdapter):
    """An Adapter of a module that takes the keys and values of earlier tokens and returns those of all: a cache of kind `cat`.

    `module(idx_BT, past_key_values=past)` returns logits and the new past. `split(output)` finds both, if they are not first
    and last in a tuple, or `.logits` and `.past_key_values`. The past of the first pass of a call is None.
    """

    def __init__(
        self, module: nn.Module, *, keyword: str = "past_key_values", split: Function = logits_and_past, **others: Any
    ) -> None:
        super().__init__(module, **others)
        without_a_module("split", split)
        self.keyword, self.split = keyword, split

    def make_cache(self, batch_size: int, max_len: int, kind: str) -> Any:
        """See Adapter.make_cache."""
        self.refuse_other_kinds(kind, "cat")
        return None

    def forward_cached(self, idx_BT: Tensor, pos_T: Tensor, cache: Any, last_only: bool = True) -> tuple[Tensor, Any]:
        """See Adapter.forward_cached."""
        logits_BTV, past = self.split(self.call(self.module, idx_BT, last_only, **{self.keyword: cache}))
        return self.positions(logits_BTV, idx_BT, last_only), past
