"""Causal language models of transformers with their own caches: hf:FOLDER, hf:NAME, or hf:TYPE?random with random weights.

The code that runs is transformers' own, as `generate` calls it. Shapes: B rows, T tokens, V vocabulary.
"""

import importlib
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanobench.errors import Skip, UserError, unknown
from nanobench.models import _huggingface_config as configs
from nanobench.models import _huggingface_weights as weights
from nanobench.models._module_shape import shape_of_module
from nanobench.schema import GPTShape

ATTENTIONS = ("sdpa", "eager", "flex_attention", "flash_attention_2")
"""transformers' implementations of attention that download nothing."""
CACHED_LAYERS = {"full_attention", "sliding_attention"}
"""Types of layers whose state is nothing but keys and values."""
POSITION = "cumulative_length"
"""The attribute of a static layer that says where it writes next: a tensor."""
FREQUENCIES = "inv_freq"
"""How the names of the buffers with rotary frequencies end."""


class Network(nn.Module):
    """A module of transformers. Its rotary frequencies stay in float32, as when transformers loads it in a narrower dtype.

    `.to(bfloat16)` would round them: the angle of position 1000 would be wrong by radians.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """See the forward() of the module."""
        return self.model(*arguments, **named)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Network":
        kept = [
            (part, name, buffer)
            for part in self.modules()
            for name, buffer in part.named_buffers(recurse=False)
            if name.endswith(FREQUENCIES)
        ]
        super()._apply(fn, recurse)
        for part, name, buffer in kept:
            setattr(part, name, buffer.to(getattr(part, name).device))
        return self


class HuggingFace:
    """The Adapter of a causal language model of transformers."""

    def __init__(self, model: Any) -> None:
        self.module: nn.Module = Network(model)
        self.config, self.shape = model.config, shape_of(model)
        self.is_stateful = bool(getattr(model, "_is_stateful", False))
        names = signature(model.forward).parameters
        self.slices_logits, self.reads_positions = "logits_to_keep" in names, "position_ids" in names

    def forward(self, idx_BT: Tensor, targets_BT: Tensor | None = None, last_only: bool = False) -> Tensor:
        """See Adapter.forward."""
        logits_BTV = self.logits(idx_BT, last_only, use_cache=False)
        if targets_BT is None:
            return logits_BTV
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=-1)

    def logits(self, idx_BT: Tensor, last_only: bool, **arguments: Any) -> Tensor:
        """Logits [B, T, V], or [B, 1, V] if `last_only`."""
        if last_only and self.slices_logits:
            arguments["logits_to_keep"] = 1
        logits_BTV: Tensor = self.module(idx_BT, **arguments).logits
        return logits_BTV[:, -1:] if last_only and not self.slices_logits else logits_BTV

    def make_cache(self, batch_size: int, max_len: int, kind: str) -> Any:
        """See Adapter.make_cache: a DynamicCache for 'cat'; for 'static', layers of a StaticCache, allocated here.

        Both keep all positions. In a layer with a sliding window, the mask hides those outside of it.
        """
        self.refuse_other_states()
        library = importlib.import_module("transformers.cache_utils")
        if kind == "cat":
            return library.DynamicCache()
        if kind != "static":
            raise Skip(f"{self.config.model_type} has no cache of kind {kind!r} (it has: static, cat)")
        # StaticCache would take sliding layers, whose position is a Python number: an engine's is a tensor on the device.
        layers = [library.StaticLayer(max_cache_len=max_len) for _ in range(self.shape.n_layer)]
        if not hasattr(layers[0], POSITION):
            raise Skip("static layers of this transformers have no position that can be set; install transformers 5.4 or newer")
        cache = library.Cache(layers=layers)
        like = next(self.module.parameters())
        cache.early_initialization(batch_size, self.shape.n_kv_head, self.shape.head_dim, like.dtype, like.device)
        return cache

    def refuse_other_states(self) -> None:
        """Raises Skip for a model that carries something else than keys and values from token to token."""
        others = sorted(set(getattr(self.config, "layer_types", None) or ()) - CACHED_LAYERS)
        if others or self.is_stateful:
            what = f"layers of type {', '.join(others)}" if others else "a recurrent state"
            raise Skip(f"{self.config.model_type} has {what}, whose state nanobench does not keep; it runs uncached only")

    def forward_cached(self, idx_BT: Tensor, pos_T: Tensor, cache: Any, last_only: bool = True) -> tuple[Tensor, Any]:
        """See Adapter.forward_cached."""
        for layer in cache.layers:
            # A static layer writes where its own count says, and would count on from the last call.
            if hasattr(layer, POSITION):
                layer.cumulative_length.copy_(pos_T[0])
        positions = {"position_ids": pos_T[None]} if self.reads_positions else {}
        return self.logits(idx_BT, last_only, past_key_values=cache, use_cache=True, **positions), cache


def shape_of(model: Any) -> GPTShape:
    """The sizes of a model: those of its config, and parameters counted from its modules. Raises UserError for no GPT."""
    config = model.config
    if not isinstance(getattr(config, "num_attention_heads", None), int):
        what = f"{config.model_type} has no num_attention_heads in its config"
        raise UserError(f"{what}, so it is no GPT whose costs can be computed")
    shared = {"n_kv_head": 1} if getattr(config, "multi_query", False) else {}
    return shape_of_module(model, architecture=f"{config.model_type} (transformers {configs.library().__version__})", **shared)


def build(
    location: str,
    *,
    random: bool = False,
    online: bool = False,
    trust: bool = False,
    attn_implementation: str | None = None,
    **arguments: Any,
) -> HuggingFace:
    """A model of transformers. With `random` only its config is read, and weights come from torch's current seed.

    `online` allows a download, `trust` the Python code of a checkpoint. Other arguments replace values of the config.
    On the meta device no weights are loaded: their files are compared with the config.
    """
    if attn_implementation not in (None, *ATTENTIONS):
        raise unknown("attn_implementation", str(attn_implementation), ATTENTIONS)
    configs.library()
    folder = configs.folder_of(location, weights=not random, online=online, trust=trust)
    with configs.offline():
        config = configs.config_of(location, folder, arguments, attn_implementation, trust)
        if folder is None or random:
            return HuggingFace(from_config(location, config, trust))
        if torch.get_default_device().type != "meta":
            return HuggingFace(weights.load(folder, config, trust))
        model = from_config(location, config, trust)
        weights.check(model, folder)
    return HuggingFace(model)


def from_config(location: str, config: Any, trust: bool) -> Any:
    """A model with random weights in float32. Raises UserError where the config's values contradict each other."""
    auto = configs.library().AutoModelForCausalLM
    # A RuntimeError may say that the memory does not suffice.
    with configs.explained(f"{location} cannot be built", "correct config.json or the arguments", RuntimeError):
        return auto.from_config(config, dtype=torch.float32, trust_remote_code=trust)
