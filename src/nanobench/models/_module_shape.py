"""The sizes of a module of another project: read from its config, and counted from its layers.

C is the width of the residual stream, V the vocabulary.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from torch import Tensor, nn

from nanobench.errors import UserError, unknown
from nanobench.schema import GPTShape

CONFIG_NAMES = {
    "n_layer": ("n_layer", "num_hidden_layers", "n_layers", "num_layers"),
    "n_head": ("n_head", "num_attention_heads", "n_heads", "num_heads"),
    "n_kv_head": ("n_kv_head", "num_key_value_heads", "n_kv_heads", "n_local_heads", "num_kv_heads"),
    "n_embd": ("n_embd", "hidden_size", "d_model", "dim", "emb_dim"),
    "vocab_size": ("vocab_size",),
    "block_size": ("block_size", "sequence_len", "max_position_embeddings", "n_positions", "max_seq_len", "context_length"),
}
"""Size -> its names in the configs of well-known projects."""
HEAD_WIDTHS = ("head_dim", "head_width")
"""Names of the width of a head, which most configs leave to n_embd / n_head."""
PADDING, STEP = 128, 64
"""A vocabulary may be padded up to a multiple of the first number, to a multiple of the second."""
UNKNOWN_SHARE = 0.01
"""A parameter of which it is not known whether it is multiplied or looked up may be this share of all."""


class Matrix(NamedTuple):
    """The weights of a matmul."""

    n_in: int
    n_out: int
    weight: Tensor

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.n_in * self.n_out


def shape_of_module(module: nn.Module, *, architecture: str | None = None, **sizes: int) -> GPTShape:
    """The GPTShape of a module. `sizes` are fields of GPTShape that the config of the module does not have, or has wrong.

    Every nn.Linear counts as one matmul per token. Raises UserError for a size that is not found, for a module without a
    recognizable lm_head, and for weights of which it is not known whether they are multiplied or looked up.
    """
    architecture = architecture or type(module).__name__
    known = [each.name for each in fields(GPTShape) if each.name != "architecture"]
    for name in sizes:
        if name not in known:
            raise unknown("size", name, known)
    read = {name: sizes.get(name) or read_size(module, names) for name, names in CONFIG_NAMES.items()}
    read["n_kv_head"] = read["n_kv_head"] or read["n_head"]
    for name, size in read.items():
        if size is None:
            looked_for = ", ".join(CONFIG_NAMES[name])
            raise UserError(f"{architecture}: its config has no {name} (looked for {looked_for}); give it, like {name}=8")
    width = read_size(module, HEAD_WIDTHS)
    if width is not None and width * read["n_head"] != read["n_embd"]:
        read["head_width"] = width
    given = {"n_params": sum(each.numel() for each in module.parameters()), **read, **sizes}
    if "matmul_params" not in sizes or "lookup_params" not in sizes:
        given = {**count(module, architecture, given), **given}
    shape = GPTShape(architecture=architecture, **given)
    return shape if "mlp_matmuls" in sizes else GPTShape(**{**vars(shape), "mlp_matmuls": mlp_matmuls(module, shape)})


def read_size(module: nn.Module, names: Iterable[str]) -> Any:
    """A size from the config of a module, an object or a dictionary, under one of some names; None if it is not there."""
    config = getattr(module, "config", None)
    get = config.get if isinstance(config, Mapping) else lambda each: getattr(config, each, None)
    return next((size for each in names if (size := get(each)) is not None), None)


def matrices(module: nn.Module) -> Iterator[Matrix]:
    """The matmuls of a module: those of nn.Linear, of attention layers of torch, and of the Conv1D of transformers."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            yield Matrix(part.in_features, part.out_features, part.weight)
        elif isinstance(part, nn.MultiheadAttention) and part.in_proj_weight is not None:
            yield Matrix(part.in_proj_weight.shape[1], part.in_proj_weight.shape[0], part.in_proj_weight)
        elif type(part).__name__ == "Conv1D" and isinstance(weight := getattr(part, "weight", None), Tensor):
            yield Matrix(weight.shape[0], weight.shape[1], weight)


def count(module: nn.Module, architecture: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """The fields `matmul_params` and `lookup_params`. A padded lm_head counts as if it was not padded."""
    found, tables = list(matrices(module)), [part for part in module.modules() if isinstance(part, nn.Embedding)]
    multiplied = {id(each.weight) for each in found}
    head = head_of(found, {id(table.weight) for table in tables}, sizes)
    if head is None:
        # The table of token embeddings, which is multiplied by a function.
        tied = [each for each in tables if each.embedding_dim == sizes["n_embd"] and is_vocabulary(each.num_embeddings, sizes)]
        if not tied:
            raise UserError(
                f"{architecture}: no nn.Linear or nn.Embedding of {sizes['n_embd']} x {sizes['vocab_size']} is its lm_head; "
                "give matmul_params and lookup_params"
            )
        multiplied.add(id(tied[-1].weight))
    looked_up = {id(table.weight): table.weight.numel() for table in tables if id(table.weight) not in multiplied}
    for name, weight in module.named_parameters():
        if id(weight) in multiplied or id(weight) in looked_up or weight.dim() < 2:
            continue
        if tuple(weight.shape[-2:]) == (sizes["block_size"], sizes["n_embd"]):
            looked_up[id(weight)] = weight.numel()
        elif weight.numel() > UNKNOWN_SHARE * sizes["n_params"]:
            raise UserError(
                f"{architecture}: it is not known whether its parameter {name} is multiplied or looked up; "
                "give matmul_params and lookup_params"
            )
    blocks = sum(each.size for each in found if each is not head)
    return {
        "matmul_params": blocks + sizes["n_embd"] * sizes["vocab_size"],
        "lookup_params": sum(looked_up.values()),
    }


def is_vocabulary(rows: int, sizes: Mapping[str, int]) -> bool:
    """Whether a number of rows is the vocabulary, padded or not."""
    vocab_size = sizes["vocab_size"]
    return rows == vocab_size or (vocab_size <= rows <= -(-vocab_size // PADDING) * PADDING and rows % STEP == 0)


def head_of(found: list[Matrix], tables: set[int], sizes: Mapping[str, int]) -> Matrix | None:
    """The matmul that gives the logits: one that is tied to a table, or as large as the vocabulary, and the last of several."""
    fitting = [each for each in found if each.n_in == sizes["n_embd"] and is_vocabulary(each.n_out, sizes)]

    def rank(each: Matrix) -> tuple[bool, bool]:
        return id(each.weight) not in tables, each.n_out != sizes["vocab_size"]

    return min(reversed(fitting), key=rank, default=None)


def mlp_matmuls(module: nn.Module, shape: GPTShape) -> int:
    """3 if the weights of the blocks are those of attention and of three matmuls as large as the one that ends the MLP, else 2.

    The one that ends the MLP is known by its size: it has C columns and another number of rows. So has the one that ends
    attention where its heads are not C wide together.
    """
    counts = Counter(each.n_in for each in matrices(module) if each.n_out == shape.n_embd != each.n_in)
    if shape.attention_width != shape.n_embd:
        counts[shape.attention_width] -= shape.n_layer
    widths = [width for width, count in counts.items() if count > 0]
    if len(widths) != 1:
        return 2
    mlp_params = shape.block_params / shape.n_layer - shape.n_embd * (shape.qkv_width + shape.attention_width)
    return 3 if round(mlp_params / (shape.n_embd * widths[0])) == 3 else 2
