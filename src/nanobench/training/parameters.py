"""The parameters that a training step changes, marked for optimizers that treat embeddings in another way."""

from collections.abc import Iterator

from torch import nn

from nanobench.errors import Skip
from nanobench.models.base import Adapter


def trainable(adapter: Adapter) -> list[nn.Parameter]:
    """All parameters of a model in training mode, in the module's order.

    Each has the attribute `is_embedding_or_output_parameter`, as in Megatron-LM: true for the weights of embeddings and for all
    that is outside of the blocks.
    """
    adapter.module.train().requires_grad_(True)
    hidden = hidden_parameters(adapter.module, adapter.shape.n_layer)
    parameters = list(adapter.module.parameters())
    for each in parameters:
        each.is_embedding_or_output_parameter = id(each) not in hidden  # type: ignore[attr-defined]
    return parameters


def hidden_parameters(module: nn.Module, layers: int) -> set[int]:
    """The ids of the parameters of the blocks, without those of embeddings; of the whole module if it has no list of blocks."""
    try:
        blocks = list(find_blocks(module, layers))
    except Skip:
        blocks = [module]
    inside = {id(each) for block in blocks for each in block.parameters()}
    embeddings = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    return inside - {id(each) for part in embeddings for each in part.parameters()}


def find_blocks(module: nn.Module, layers: int) -> Iterator[nn.Module]:
    """The blocks of a network: the members of its only ModuleList with `layers` members. Raises Skip otherwise."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) == layers]
    if len(lists) != 1:
        raise Skip(f"checkpointing needs one ModuleList of {layers} blocks; {type(module).__name__} has {len(lists)}")
    return iter(lists[0])
