"""Selection of the `scaled_dot_product_attention` backend, and the check that an arm really used it."""

from collections.abc import Iterator
from contextlib import contextmanager

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


def avoid_cudnn() -> None:
    """Lets `auto` choose among torch's other backends; `sdpa-cudnn` still runs cuDNN's.

    cuDNN builds a plan for each exact shape and stride, which takes 40 to 440 ms: one for every length of a growing cache
    (pytorch#191576). torch prefers it on Hopper.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def check_device(choice: str, device: str) -> None:
    """Raises Skip for a backend that this device type does not have."""
    if device == "cpu" and choice not in ("auto", *ON_CPU):
        raise Skip(f"{choice} needs a CUDA device; a CPU has {' and '.join(ON_CPU)}")


@contextmanager
def use_backend(choice: str) -> Iterator[None]:
    """Within the context, torch uses only this backend; with `auto` torch chooses.

    Raises Skip if the backend has no kernel for the input.
    """
    if choice == "auto":
        yield
        return
    try:
        with sdpa_kernel(KERNELS[choice][0]):
            yield
    except RuntimeError as error:
        if any(text in str(error) for text in NO_KERNEL):
            raise Skip(f"{choice} has no kernel for this arm's masks, heads or dtype") from error
        raise


def check(choice: str, names: frozenset[str], compiled: bool) -> None:
    """Raises RuntimeError unless the dispatched operators `names` are those of the choice.

    In a compiled arm the compiler may have replaced them, but not by the operators of another choice.
    """
    used = {each for each, (_, operator) in KERNELS.items() for name in names if name.startswith(operator)}
    if choice != "auto" and used != {choice} and not (compiled and not used):
        what = f"ran {' and '.join(sorted(used))}" if used else "calls no scaled_dot_product_attention"
        raise RuntimeError(f"{choice} was requested, but the model {what}")
