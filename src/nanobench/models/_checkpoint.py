"""The settings and the tensors of a checkpoint, each checked before a network of these sizes is built.

What is wrong is a UserError of one line that names the file, and the setting or the tensor.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nanobench.errors import UserError
from nanobench.models._torch_file import first_line

LARGEST = 10**9
"""No size of a checkpoint is above this."""
LONGEST_JSON = 2**26
"""bytes"""
MOST_CHARACTERS = 80
"""of a value in a message"""
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""The dtypes of weights. They are read as they are; the worker converts them to the measured dtype."""
COMPILED = "_orig_mod."
"""torch.compile puts this before the names in a module."""


def shown(value: object) -> str:
    """A value in a message: plain values as Python writes them in ASCII, and not long; others by their type."""
    if type(value) is int and abs(value) > LARGEST**2:
        return f"(a number of {value.bit_length()} bits)"
    if not isinstance(value, str | int | float | None):
        return f"of type {type(value).__name__}"
    text = ascii(value[:MOST_CHARACTERS] if isinstance(value, str) else value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


# Settings
@dataclass(frozen=True)
class Settings:
    """The settings of a network as a checkpoint gives them."""

    values: Mapping[Any, Any]
    where: str
    """the file, or the part of it, that gives them"""

    @classmethod
    def of(cls, values: object, where: str) -> "Settings":
        """Raises UserError for what is no table of settings."""
        if not isinstance(values, Mapping):
            raise UserError(f"{where} is no table of settings, it is {shown(values)}")
        return cls(values, where)

    def refuse_unknown(self, known: Collection[str], reason: str) -> None:
        """Raises UserError for the first setting that is not known: it may change what the network computes."""
        for name in self.values:
            if name not in known:
                raise UserError(f"{self.where} has the setting {shown(name)}; {reason}")

    def size(self, name: str) -> int:
        """A setting that is a count. Raises UserError for another value, and where it is missing."""
        if name not in self.values:
            raise UserError(f"{self.where} has no setting {name}")
        value = self.values[name]
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise UserError(f"{self.where}: {name} {shown(value)} is not a whole number from 1 to {LARGEST:g}")
        return value

    def sizes(self, *names: str) -> dict[str, int]:
        """Several counts by name."""
        return {name: self.size(name) for name in names}

    def refuse_remainder(self, part: str, whole: str) -> None:
        """Raises UserError unless one count divides another."""
        if self.size(whole) % self.size(part):
            raise UserError(f"{self.where}: {part} {self.size(part)} does not divide {whole} {self.size(whole)}")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError where there is none."""
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise UserError(f"{path} has {path.stat().st_size} bytes, which is too long for settings")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error


# Tensors
@dataclass(frozen=True)
class Slot:
    """A tensor that a network needs."""

    theirs: str
    """its name in the checkpoint"""
    ours: str
    """the name of our own parameter"""
    shape: tuple[int, ...]


def named(tensors: object, path: Path) -> dict[str, Any]:
    """What a checkpoint gives as tensors, without the prefixes of torch.compile. Raises UserError for another object."""
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise UserError(f"{path} holds no tensors by name")
    found = {name.replace(COMPILED, ""): tensor for name, tensor in tensors.items()}
    if len(found) != len(tensors):
        raise UserError(f"{path} holds tensors both with and without the prefix {COMPILED}")
    return found


def read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, whose data stay in the file until they are used. Raises UserError for another file."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"{path} needs the package safetensors; run pip install safetensors") from error
    try:
        with torch.device("cpu"):
            return named(load_file(path, device="cpu"), path)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{path} is no safetensors file, or is damaged: {first_line(error)}") from error


def take(tensors: Mapping[str, Any], slots: Iterable[Slot], path: Path, reason: str) -> dict[str, Tensor]:
    """The tensors of all slots by our own names. Raises UserError for the first that is missing, wrong or left over.

    Slots are compared one by one, so a number of layers far above the file's ends at the first missing tensor.
    """
    taken: dict[str, Tensor] = {}
    known: set[str] = set()
    for slot in slots:
        taken[slot.ours] = checked(tensors, slot, path)
        known.add(slot.theirs)
    left = next((name for name in tensors if name not in known), None)
    if left is not None:
        raise UserError(f"{path} has the tensor {shown(left)}; {reason}")
    claimed, size = sum(tensor.nbytes for tensor in taken.values()), path.stat().st_size
    if claimed > size:
        raise UserError(f"{path} is no checkpoint: its tensors claim {claimed} bytes, but the file has {size}")
    return taken


def checked(tensors: Mapping[str, Any], slot: Slot, path: Path) -> Tensor:
    """The tensor of a slot. Raises UserError if it is missing, no floating-point tensor, or of another shape."""
    if slot.theirs not in tensors:
        raise UserError(f"{path} has no tensor {slot.theirs}, which its settings need")
    tensor = tensors[slot.theirs]
    if not isinstance(tensor, Tensor):
        raise UserError(f"{path}: {slot.theirs} is no tensor, it is {shown(tensor)}")
    if tensor.dtype not in FLOATS:
        valid = ", ".join(map(name_of, FLOATS))
        raise UserError(f"{path}: tensor {slot.theirs} is {name_of(tensor.dtype)}, but weights are one of {valid}")
    if tuple(tensor.shape) != slot.shape:
        found = f"{path}: tensor {slot.theirs} has the shape {list(tensor.shape)[:8]}"
        raise UserError(f"{found}, but its settings need {list(slot.shape)}")
    return tensor


def name_of(dtype: torch.dtype) -> str:
    """A dtype without the name of its module."""
    return str(dtype).removeprefix("torch.")


# The network
def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Replaces the parameters of a module on the meta device by copies of the weights, in their dtypes.

    A tensor under two names becomes one parameter. Where torch builds on the meta device itself, no weight is read.
    """
    if is_meta():
        return
    parameters = {key: nn.Parameter(copied(tensor)) for key, tensor in {id(each): each for each in weights.values()}.items()}
    for name, tensor in weights.items():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, parameters[id(tensor)])


def copied(tensor: Tensor) -> Tensor:
    """A copy in memory: a tensor that is mapped from its file changes with the file, and is read from disk while times run."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def is_meta() -> bool:
    """Whether torch makes new tensors without data now."""
    return torch.empty(0).is_meta
