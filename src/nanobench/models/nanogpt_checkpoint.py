"""A checkpoint of nanoGPT: the ckpt.pt that its train.py writes, or its tensors in a safetensors file.

It becomes our own GPT-2 with the same weights, so every engine works on it. Names of tensors are those of karpathy/nanoGPT.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanobench.errors import UserError, unknown
from nanobench.models import _torch_file, gpt2
from nanobench.models._checkpoint import Settings, Slot, fill, named, read_json, read_safetensors, shown, take
from nanobench.models._gpt import GPTAdapter

SAFETENSORS = ".safetensors"
FILES = ("ckpt.pt", f"model{SAFETENSORS}")
"""What is read from a folder: the first that is there."""
CONFIG = "config.json"
"""The settings of a safetensors file, in its folder."""
SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
SETTINGS = (*SIZES, "bias", "dropout")
"""Everything that nanoGPT's `model_args` holds. Dropout is not applied here."""
GELUS = ("none", "tanh")
TABLE, HEAD = "transformer.wte.weight", "lm_head.weight"
"""One tensor under two names."""
BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(masked_)?bias")
"""Causal masks, which nanoGPT saved before it used scaled_dot_product_attention."""
PARTS = (
    ("ln_1", "norm_1", (1,)),
    ("attn.c_attn", "attention.qkv", (3, 1)),
    ("attn.c_proj", "attention.out", (1, 1)),
    ("ln_2", "norm_2", (1,)),
    ("mlp.c_fc", "up", (4, 1)),
    ("mlp.c_proj", "down", (1, 4)),
)
"""The parts of a block: nanoGPT's name, ours, and the shape of the weight in widths."""
REASON = "nanoGPT has none of this name; for a variant of it write a build() of your own (docs/extend.md)"


def build(location: str, *, gelu: str | None = "none") -> GPTAdapter:
    """A GPT-2 with the weights of a checkpoint. `gelu` is `none` for the exact GELU, or `tanh`: nanoGPT's before May 2023."""
    variant = gelu or "none"  # the argument gelu=none arrives as None
    if variant not in GELUS:
        raise unknown("gelu", str(variant), GELUS, where=" of a nanoGPT checkpoint")
    path = path_of(location)
    settings, tensors = read(path)
    settings.refuse_unknown(SETTINGS, REASON)
    sizes, bias = settings.sizes(*SIZES), bias_of(settings)
    settings.refuse_remainder("n_head", "n_embd")
    weights = take(untied(tensors), slots(sizes, bias), path, REASON)
    refuse_other_head(tensors.get(HEAD), tensors.get(TABLE), path)
    with torch.device("meta"):
        adapter = gpt2.build(**sizes, bias=bias, gelu=variant)
    fill(adapter.module, {**weights, "head.weight": weights["token_embedding.weight"]})
    return adapter


def path_of(location: str) -> Path:
    """The file of a location, which is a file or its folder. Raises UserError where there is none.

    A safetensors file is named by its folder: so the settings in the folder belong to the identity of a run, too.
    """
    path = Path(location)
    try:
        if path.is_dir():
            path = next((path / name for name in FILES if (path / name).is_file()), path)
        elif path.suffix == SAFETENSORS:
            raise UserError(f"{location} has its settings in the {CONFIG} of its folder; give the folder")
        if path.is_file():
            return path
        found = "holds no " + " and no ".join(FILES) if path.is_dir() else "is no file" if path.exists() else "does not exist"
    except OSError as error:
        found = f"cannot be read: {_torch_file.first_line(error)}"
    raise UserError(f"{location} {found}; give the ckpt.pt of nanoGPT, or the folder that holds it")


def read(path: Path) -> tuple[Settings, dict[str, Any]]:
    """The settings and the tensors of a checkpoint. Raises UserError where they are not there."""
    if path.suffix == SAFETENSORS:
        config = path.with_name(CONFIG)
        settings = Settings.of(read_json(config), str(config))
        if "model_args" in settings.values:
            settings = Settings.of(settings.values["model_args"], f"model_args of {config}")
        return settings, read_safetensors(path)
    content = _torch_file.read(path)
    for key in ("model_args", "model"):
        if not isinstance(content, Mapping) or key not in content:
            raise UserError(f"{path} has no {key!r}; give a file that nanoGPT's train.py wrote")
    return Settings.of(content["model_args"], f"model_args of {path}"), named(content["model"], path)


def bias_of(settings: Settings) -> bool:
    """Whether matmuls and norms have biases. They always had before nanoGPT made it a setting."""
    bias = settings.values.get("bias", True)
    if not isinstance(bias, bool):
        raise UserError(f"{settings.where}: bias {shown(bias)} is not True or False")
    return bias


def untied(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors that become parameters: without masks, and with the table that is also the lm_head once."""
    found = {name: tensor for name, tensor in tensors.items() if name != HEAD and not BUFFERS.fullmatch(name)}
    return {TABLE: tensors[HEAD], **found} if HEAD in tensors else found


def refuse_other_head(head: object, table: object, path: Path) -> None:
    """Raises UserError where the lm_head has other weights than the embedding."""
    if head is None or table is None or head is table:
        return
    if not isinstance(head, Tensor) or not isinstance(table, Tensor) or not is_equal(head, table):
        raise UserError(f"{path}: {HEAD} is not the same tensor as {TABLE}, but nanoGPT has one tensor for both")


def is_equal(head: Tensor, table: Tensor) -> bool:
    """Whether two tensors are the same data, or equal data of one dtype."""
    if head.shape != table.shape or head.dtype != table.dtype:
        return False
    return head.data_ptr() == table.data_ptr() or torch.equal(head, table)


def slots(sizes: Mapping[str, int], bias: bool) -> Iterator[Slot]:
    """Every tensor of a nanoGPT of these sizes."""
    width = sizes["n_embd"]
    yield Slot(TABLE, "token_embedding.weight", (sizes["vocab_size"], width))
    yield Slot("transformer.wpe.weight", "position_embedding.weight", (sizes["block_size"], width))
    for layer in range(sizes["n_layer"]):
        for theirs, ours, widths in PARTS:
            shape = tuple(width * each for each in widths)
            yield from part(f"transformer.h.{layer}.{theirs}", f"blocks.{layer}.{ours}", shape, bias)
    yield from part("transformer.ln_f", "norm", (width,), bias)


def part(theirs: str, ours: str, shape: tuple[int, ...], bias: bool) -> Iterator[Slot]:
    """The weight of a matmul or a norm, and its bias if it has one."""
    yield Slot(f"{theirs}.weight", f"{ours}.weight", shape)
    if bias:
        yield Slot(f"{theirs}.bias", f"{ours}.bias", shape[:1])
