"""The models that lossy arms run, made of the float model: quantised weights, an int8 KV cache, or both.

For each there are two: the one that is measured, and the same values computed by other means, which the gate expects.
"""

from nanobench.errors import Skip
from nanobench.models._gpt import Attention, GPTAdapter
from nanobench.models._kv_cache import StaticCache
from nanobench.models._quantized_linear import dequantized, quantized, shared_copy
from nanobench.models.base import Adapter
from nanobench.schema import Arm


def measured(adapter: Adapter, arm: Arm) -> Adapter:
    """The model that an arm runs. It shares the tensors of `adapter` that it does not quantise: never convert it.

    Raises Skip for what this device, dtype or model cannot have.
    """
    if arm.weights != "float" and adapter.shape.latent_width is not None:
        raise Skip("a model with latents multiplies by its weights in other ways than a quantised kernel can")
    made = adapter if arm.weights == "float" else quantized(adapter, arm.weights)
    return made if arm.kv_cache == "float" else with_int8_cache(made)


def expected(adapter: Adapter, arm: Arm) -> Adapter:
    """A model without quantised kernels that computes the same as `measured`: in float32 with quantised weights, else in the
    dtype of `adapter`.
    """
    made = adapter if arm.weights == "float" else dequantized(adapter, arm.weights)
    return made if arm.kv_cache == "float" else with_int8_cache(made)


def with_int8_cache(adapter: Adapter) -> Adapter:
    """The model whose cache is int8; without a cache its keys and values are rounded as that cache rounds them."""
    if not isinstance(adapter, GPTAdapter):
        raise Skip(f"an int8 KV cache is one of the built-in models; {adapter.shape.architecture} brings its own cache")
    if adapter.static_cache is not StaticCache or adapter.shape.latent_width is not None:
        raise Skip(f"{adapter.shape.architecture} keeps more than keys and values, and has no int8 cache")
    made = shared_copy(adapter)
    assert isinstance(made, GPTAdapter)
    made.kv_cache = "int8"
    for part in made.module.modules():
        if isinstance(part, Attention):
            part.rounds_kv = True
    return made
