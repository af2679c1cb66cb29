"""A model that Python holds in memory: its Adapter, its name, and the file from which the workers read it.

The file is a pickle, which can run code when it is read. A worker reads it only if it has the SHA-256 that stands in the text.
"""

import hashlib
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nanobench import registry, source_code
from nanobench.errors import Skip, UserError
from nanobench.models.base import Adapter
from nanobench.registry.importable import refuse_unimportable
from nanobench.schema import GPTShape

PARTS = ("module", "shape", "forward", "make_cache")
"""What every Adapter has."""
WAYS = (
    "give a name like 'gpt2-mini', a build function that a file defines, "
    "or an Adapter (module, shape, forward, make_cache; nanobench.plugins makes one of other modules)"
)


# In a worker
def build(location: str, *, sha256: str = "") -> Adapter:
    """The Adapter in a file that `save` wrote."""
    if not sha256:
        raise UserError("it was an object in the memory of a Python process; measure it there: nanobench.kv_sweep(model=...)")
    registry.search_current_folder()
    try:
        with open(location, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise UserError(f"{location} has another SHA-256 than {sha256}; it is a pickle, so it is not read")
            file.seek(0)
            place = "meta" if torch.get_default_device().type == "meta" else "cpu"
            adapter: Adapter = torch.load(file, map_location=place, weights_only=False)
    except OSError as error:
        raise UserError(f"{location} cannot be read: {error.strerror or error}") from error
    return adapter


# In the process that holds it
class Saved(NamedTuple):
    """A model in a file."""

    name: str
    """how rows name it: `object:`, the class, and 12 hexadecimal digits that stand for its content"""
    text: str
    """how a worker reads it"""


def save(model: Any, folder: Path) -> Saved:
    """Writes the Adapter of an object into a folder, readable for this user alone.

    The same weights of the same class have the same name. Raises UserError for what is no model, and for a class that a worker
    cannot import.
    """
    adapter = adapter_of(model)
    with in_training_mode(adapter.module):
        location = f"{class_name(adapter)}-{fingerprint(adapter)}"
        path = folder / f"{location}.pt"
        if not path.exists():
            with open(path, "xb", opener=for_this_user) as file:
                torch.save(adapter, file)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Saved(f"{registry.IN_MEMORY}:{location}", f"{registry.IN_MEMORY}:{path}?sha256={sha256}")


def for_this_user(path: str, flags: int) -> int:
    """Opens a file that only this user can read."""
    return os.open(path, flags, 0o600)


@contextmanager
def in_training_mode(module: nn.Module) -> Iterator[None]:
    """The mode is no part of a model: workers set the one that they need. It comes back at the end."""
    before = {part: part.training for part in module.modules()}
    for part in before:
        part.training = True
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


def class_name(adapter: Adapter) -> str:
    """The class that a name shows: the Adapter's, or its module's where the Adapter is one of nanobench.

    With its module where that is no installed package: the files of that module then belong to the identity of the run.
    """
    kind = type(adapter.module) if is_ours(type(adapter)) else type(adapter)
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    is_installed = is_ours(kind) or path is None or source_code.is_installed(path)
    return kind.__name__ if is_installed else f"{kind.__module__}.{kind.__qualname__}"


def is_ours(kind: type) -> bool:
    """Whether a class is one of nanobench."""
    return kind.__module__.partition(".")[0] == "nanobench"


def fingerprint(adapter: Adapter) -> str:
    """Twelve hexadecimal digits that stand for the content of an Adapter: classes, weights and settings."""
    out = io.BytesIO()
    try:
        Content(out, protocol=4).dump(adapter)
    except UserError:
        raise
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        kind = type(adapter.module).__name__
        raise UserError(f"model {kind} cannot be written for the workers: {what}; give a build function instead") from error
    return hashlib.sha256(out.getvalue()).hexdigest()[:12]


class Content(pickle.Pickler):
    """A pickle that is the same for the same content, in every process: of tensors, sets and texts only their values count.

    Raises UserError for a function or a class that a worker could not import.
    """

    def persistent_id(self, obj: Any) -> int | None:
        """A number that stands for a value; None for what is pickled as usual."""
        if isinstance(obj, Tensor):
            return number_of(content_of(obj))
        if isinstance(obj, str):
            return number_of(obj.encode(errors="surrogatepass"))
        if isinstance(obj, set | frozenset):
            return number_of(repr(sorted(map(repr, obj))).encode())
        if isinstance(obj, type | FunctionType):
            refuse_unimportable(obj, "class" if isinstance(obj, type) else "function")
        return None


def content_of(tensor: Tensor) -> bytes:
    """The dtype, the shape and the bytes of a tensor, hashed."""
    values_N = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(values_N.view(torch.uint8).numpy().data)
    return digest.digest()


def number_of(content: bytes) -> int:
    """A number that stands for some bytes."""
    return int.from_bytes(hashlib.sha256(content).digest())


# Adapters
class ModuleAdapter:
    """The Adapter of a module that has the parts of one itself: `shape`, forward(idx, targets, last_only), perhaps a cache."""

    def __init__(self, module: Any) -> None:
        self.module: Any = module
        self.shape: GPTShape = module.shape

    def forward(self, idx_BT: Tensor, targets_BT: Tensor | None = None, last_only: bool = False) -> Tensor:
        """See Adapter.forward."""
        found: Tensor = self.module(idx_BT, targets_BT, last_only)
        return found

    def make_cache(self, batch_size: int, max_len: int, kind: str) -> Any:
        """See Adapter.make_cache."""
        if not hasattr(self.module, "make_cache"):
            raise Skip(f"{type(self.module).__name__} has no key-value cache: no make_cache()")
        return self.module.make_cache(batch_size, max_len, kind)

    def forward_cached(self, idx_BT: Tensor, pos_T: Tensor, cache: Any, last_only: bool = True) -> tuple[Tensor, Any]:
        """See Adapter.forward_cached."""
        found: tuple[Tensor, Any] = self.module.forward_cached(idx_BT, pos_T, cache, last_only)
        return found


def of_parts(module: nn.Module) -> Adapter | None:
    """The Adapter of a module that says its shape; None for another."""
    return ModuleAdapter(module) if isinstance(getattr(module, "shape", None), GPTShape) else None


def of_transformers(module: nn.Module) -> Adapter | None:
    """The Adapter of a causal language model of transformers, which is not imported for other modules."""
    if not any(kind.__name__ == "PreTrainedModel" for kind in type(module).__mro__):
        return None
    from nanobench.models.huggingface import HuggingFace

    return HuggingFace(module)


READY: tuple[Callable[[nn.Module], Adapter | None], ...] = (of_parts, of_transformers)
"""Functions that make the Adapter of a module that they know, and give None for another. The first Adapter counts."""


def adapter_of(model: Any) -> Adapter:
    """The Adapter of an object: itself, or what is known for its class. Raises UserError with the ways to give a model."""
    if hasattr(model, "_orig_mod") or hasattr(getattr(model, "module", None), "_orig_mod"):
        raise UserError("the model is compiled; give the module itself, and compile_mode='off,default' compiles an arm")
    missing = [part for part in PARTS if not hasattr(model, part)]
    if not missing and isinstance(model.module, nn.Module):
        adapter: Adapter = model
        return adapter
    missing = missing or ["torch module as its part `module`"]
    if isinstance(model, nn.Module):
        for make in READY:
            if (made := make(model)) is not None:
                return made
    raise UserError(f"an object of class {type(model).__name__} is no model: it has no {', '.join(missing)}; {WAYS}")
