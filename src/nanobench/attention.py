"""The kernels of `scaled_dot_product_attention` as an arm's choice, and whether an arm really ran the one it names."""

from contextlib import AbstractContextManager, nullcontext

from torch.nn.attention import SDPBackend, sdpa_kernel

from nanobench.errors import Skip

BACKENDS = {
    "sdpa-math": SDPBackend.MATH,
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
}
OPERATORS = {
    "sdpa-math": "aten::_scaled_dot_product_attention_math",
    "sdpa-flash": "aten::_scaled_dot_product_flash_attention",
    "sdpa-efficient": "aten::_scaled_dot_product_efficient_attention",
    "sdpa-cudnn": "aten::_scaled_dot_product_cudnn_attention",
}
"""How the name of a backend's operator begins."""
ON_CPU = ("sdpa-math", "sdpa-flash")


def refuse_elsewhere(choice: str, device: str) -> None:
    """Raises Skip for a backend that this kind of device has not."""
    if device == "cpu" and choice not in ("auto", *ON_CPU):
        raise Skip(f"{choice} needs a CUDA device; a CPU has {' and '.join(ON_CPU)}")


def only(choice: str) -> AbstractContextManager[None]:
    """While it lasts torch takes this backend or raises RuntimeError; `auto` leaves the choice to torch."""
    return nullcontext() if choice == "auto" else sdpa_kernel(BACKENDS[choice])


def check(choice: str, names: frozenset[str]) -> None:
    """Raises RuntimeError unless the operators that were dispatched are those of the choice."""
    seen = {each for each, operator in OPERATORS.items() for name in names if name.startswith(operator)}
    if choice != "auto" and seen != {choice}:
        what = f"ran {' and '.join(sorted(seen))}" if seen else "calls no scaled_dot_product_attention"
        raise RuntimeError(f"{choice} was asked for, but the model {what}")
