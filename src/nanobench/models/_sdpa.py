"""The kernels of `scaled_dot_product_attention` as an arm's choice, and whether an arm really ran the one it names."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel

from nanobench.errors import Skip

KERNELS = {
    "sdpa-math": (SDPBackend.MATH, "aten::_scaled_dot_product_attention_math"),
    "sdpa-flash": (SDPBackend.FLASH_ATTENTION, "aten::_scaled_dot_product_flash_attention"),
    "sdpa-efficient": (SDPBackend.EFFICIENT_ATTENTION, "aten::_scaled_dot_product_efficient_attention"),
    "sdpa-cudnn": (SDPBackend.CUDNN_ATTENTION, "aten::_scaled_dot_product_cudnn_attention"),
}
"""Choice -> torch's backend, and how the name of its operator begins."""
NO_KERNEL = ("No available kernel", "No viable backend")
"""How torch says that a backend cannot do it."""
ON_CPU = ("sdpa-math", "sdpa-flash")


def check_device(choice: str, device: str) -> None:
    """Raises Skip for a backend that this kind of device has not."""
    if device == "cpu" and choice not in ("auto", *ON_CPU):
        raise Skip(f"{choice} needs a CUDA device; a CPU has {' and '.join(ON_CPU)}")


@contextmanager
def use_backend(choice: str) -> Iterator[None]:
    """While it lasts torch takes this backend alone; `auto` leaves the choice to torch.

    Raises Skip where the backend has no kernel for what it is given.
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
    """Raises RuntimeError unless the operators that were dispatched are those of the choice. A compiler may have put other
    operators in its place, but not those of another choice.
    """
    seen = {each for each, (_, operator) in KERNELS.items() for name in names if name.startswith(operator)}
    if choice != "auto" and seen != {choice} and not (compiled and not seen):
        what = f"ran {' and '.join(sorted(seen))}" if seen else "calls no scaled_dot_product_attention"
        raise RuntimeError(f"{choice} was asked for, but the model {what}")
