"""Selection of the attention kernel, and the check that an arm really used it.

A choice is a backend of `scaled_dot_product_attention`, or FlexAttention, which the built-in models call while it is chosen.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanobench.errors import Skip

KERNELS = {
    "sdpa-math": (SDPBackend.MATH, "aten::_scaled_dot_product_attention_math"),
    "sdpa-flash": (SDPBackend.FLASH_ATTENTION, "aten::_scaled_dot_product_flash_attention"),
    "sdpa-efficient": (SDPBackend.EFFICIENT_ATTENTION, "aten::_scaled_dot_product_efficient_attention"),
    "sdpa-cudnn": (SDPBackend.CUDNN_ATTENTION, "aten::_scaled_dot_product_cudnn_attention"),
}
"""Choice -> torch's backend and the prefix of its operator's name."""
NO_KERNEL = ("No available kernel", "No viable backend", "No execution plans support the graph", "cuDNN Frontend error")
"""Messages of torch and of cuDNN when a backend does not support the input."""
ON_CPU = ("sdpa-math", "sdpa-flash")
LEAST_HEAD_DIM = 16
"""of FlexAttention's kernel on CUDA"""
chosen = "auto"
"""The choice that is in use. The built-in models read it."""


def avoid_cudnn() -> None:
    """Lets `auto` choose among torch's other backends; `sdpa-cudnn` still runs cuDNN's.

    cuDNN builds a plan for each exact shape and stride, which takes 40 to 440 ms: one for every length of a growing cache
    (pytorch#191576). torch prefers it on Hopper.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def check_request(choice: str, device: str, model: Any, compiled: bool, trains: bool = False) -> None:
    """Raises Skip for a choice that this device type, model or compile mode does not have."""
    if choice == "flex":
        check_flex(device, model, compiled, trains)
    elif device == "cpu" and choice not in ("auto", *ON_CPU):
        raise Skip(f"{choice} needs a CUDA device; a CPU has {' and '.join(ON_CPU)}")


def check_flex(device: str, model: Any, compiled: bool, trains: bool) -> None:
    """Raises Skip where FlexAttention does not run, or only without its kernel."""
    if not getattr(model, "has_flex", False):
        raise Skip("flex is for the built-in models with keys and values per head")
    if device == "cpu" and not torch.cpu._is_avx2_supported():
        raise Skip("flex needs a CPU with AVX2")
    if device != "cpu" and model.shape.head_dim < LEAST_HEAD_DIM:
        raise Skip(f"flex on CUDA needs heads of at least {LEAST_HEAD_DIM} dimensions; these have {model.shape.head_dim}")
    if not compiled:
        raise Skip("flex has a kernel only in compiled code; give a --compile-mode other than off")
    if trains and device == "cpu":
        raise Skip("flex has no backward pass on a CPU")


@contextmanager
def use_backend(choice: str) -> Iterator[None]:
    """Within the context, only this kernel is used; with `auto` torch chooses.

    Raises Skip if the backend has no kernel for the input.
    """
    global chosen
    if choice == "auto":
        yield
        return
    before, chosen = chosen, choice
    try:
        with sdpa_kernel(KERNELS[choice][0]) if choice in KERNELS else nullcontext():
            yield
    except RuntimeError as error:
        if any(text in str(error) for text in NO_KERNEL):
            raise Skip(f"{choice} has no kernel for this arm's masks, heads or dtype") from error
        raise
    finally:
        chosen = before


def check(choice: str, names: frozenset[str], compiled: bool) -> None:
    """Raises RuntimeError unless the dispatched operators `names` are those of the choice.

    In a compiled arm the compiler may have replaced them, but not by the operators of another choice.
    """
    used = {each for each, (_, operator) in KERNELS.items() for name in names if name.startswith(operator)}
    if choice != "auto" and used != {choice} and not (compiled and not used):
        what = f"ran {' and '.join(sorted(used))}" if used else "calls no scaled_dot_product_attention"
        raise RuntimeError(f"{choice} was requested, but the model {what}")
