"""Top-p sampling by FlashInfer's kernel, which needs no sort. Needs CUDA and flashinfer-python; not run on a GPU so far."""

from collections.abc import Callable
from inspect import signature

import torch
from torch import Tensor

from nanobench.errors import Skip
from nanobench.registry.arguments import Positive, Share
from nanobench.samplers.top_p_sort import TopP

FIX = "install it with: pip install flashinfer-python"


class TopPFlashInfer(TopP):
    """The distribution of `top-p-sort`: Ye et al. 2025, "FlashInfer"."""

    def __init__(self, p: float, temperature: float, kernel: Callable[..., Tensor]) -> None:
        super().__init__(p, temperature)
        self.kernel = kernel

    def __call__(self, logits_BV: Tensor, generator: torch.Generator | None) -> Tensor:
        """See Sampler. Raises Skip on a CPU."""
        if not runs_on(logits_BV):
            raise Skip(f"top-p-flashinfer needs a CUDA device, not {logits_BV.device.type}")
        probs_BV = self.softmax(logits_BV.float())
        # A seed on the device: one that the host passes would be a constant of a captured graph.
        seed_1 = torch.randint(2**62, (1,), device=logits_BV.device, generator=generator)
        return self.kernel(probs_BV, self.p, seed=seed_1, offset=torch.zeros_like(seed_1)).long().unsqueeze(1)


def runs_on(tensor: Tensor) -> bool:
    """Whether the kernel runs on the device of a tensor."""
    return tensor.is_cuda


def build(*, p: Share = 0.9, temperature: Positive = 0.8) -> TopPFlashInfer:
    """Top-p sampling, by default with p = 0.9 at temperature 0.8. Raises Skip where flashinfer is missing or too old."""
    try:
        from flashinfer.sampling import top_p_sampling_from_probs
    except ImportError:
        raise Skip(f"top-p-flashinfer needs the package flashinfer, which is not installed; {FIX}") from None
    if "seed" not in signature(top_p_sampling_from_probs).parameters:
        raise Skip("top-p-flashinfer needs a newer flashinfer, whose sampler takes a seed; update it with pip")
    return TopPFlashInfer(p, temperature, top_p_sampling_from_probs)
