"""The sizes of a model, built without weights where that is possible, and checked before any cost is computed from them."""

import operator
from collections.abc import Callable
from dataclasses import fields
from typing import Any, SupportsIndex

import torch

from nanobench import registry
from nanobench.errors import UserError
from nanobench.schema import GPTShape
from nanobench.worker.arms import outcome_of

PARTS = ("module", "shape", "forward", "make_cache")
LARGEST = 10**15
"""No size of a model is above this: costs are computed as float64 and stored as int64."""
LONGEST_NAME = 100
MOST_CHARACTERS = 40
"""of a value in a message"""
MAY_BE_ZERO = ("lookup_params",)


def shape_of(name: str) -> GPTShape:
    """A model's sizes; the model is built without weights if its code allows that.

    Raises UserError if a plug-in's build() fails, does not return an Adapter, or gives sizes that no GPT has.
    """
    build = registry.find("models", name)
    try:
        adapter = built(build)
    except UserError as error:
        raise UserError(f"model {name!r}: {error}") from error
    except Exception as error:
        raise UserError(f"model {name!r} cannot be built: {outcome_of(error).reason}") from error
    try:
        wrong = problem(adapter)
        sizes = {} if wrong else sizes_of(adapter.shape)
    except Exception as error:
        raise UserError(f"model {name!r} does not give its sizes: {outcome_of(error).reason}") from error
    if wrong is not None:
        raise UserError(f"model {name!r} {wrong}")
    return GPTShape(**sizes)


def built(build: Callable[..., Any]) -> Any:
    """What build() returns on the meta device; on the CPU, if its code fails there. A UserError needs no second try."""
    try:
        with torch.device("meta"):
            return build()
    except UserError:
        raise
    except Exception:
        return build()


def problem(adapter: Any) -> str | None:
    """What is wrong with what a model's build() returned, in words; None if nothing is."""
    missing = [part for part in PARTS if not hasattr(adapter, part)]
    if missing:
        return f"is no Adapter: its build() returns a {type(adapter).__name__} without {', '.join(missing)}"
    if not isinstance(adapter.shape, GPTShape):
        return f"has a shape of type {type(adapter.shape).__name__}; give a nanobench.plugins.GPTShape"
    wrong = wrong_size(sizes_of(adapter.shape))
    return wrong and f"gives a wrong shape: {wrong}; correct the GPTShape in its build()"


def sizes_of(shape: GPTShape) -> dict[str, Any]:
    """The sizes by name; whole numbers of NumPy and others as Python's own."""
    found = {each.name: getattr(shape, each.name) for each in fields(GPTShape)}
    whole = {name: operator.index(value) for name, value in found.items() if is_whole(value)}
    return {**found, **whole}


def is_whole(value: object) -> bool:
    """Whether a value stands for a whole number. True and False do not."""
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def wrong_size(sizes: dict[str, Any]) -> str | None:
    """What is wrong with the sizes of a GPT, in words; None if nothing is."""
    name = sizes["architecture"]
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        return f"architecture {short(name)} is not a name of 1 to {LONGEST_NAME} printable characters"
    for field in (each for each in fields(GPTShape) if each.name != "architecture"):
        value, least = sizes[field.name], 0 if field.name in MAY_BE_ZERO else 1
        if value is None and field.default is None:
            continue
        if type(value) is not int or not least <= value <= LARGEST:
            return f"{field.name} {short(value)} is not a whole number from {least} to {LARGEST:g}"
    for part, whole in (("n_head", "n_embd"), ("n_kv_head", "n_head")):
        if sizes[whole] % sizes[part] and not (part == "n_head" and sizes["head_width"]):
            return f"{part} {sizes[part]} does not divide {whole} {sizes[whole]}"
    for part, whole in (("windowed_layers", "n_layer"), ("vocab_size", "vocab_rows"), ("lookup_params", "n_params")):
        if sizes[whole] is not None and (sizes[part] or 0) > sizes[whole]:
            return f"{part} {sizes[part]} is above {whole} {sizes[whole]}"
    matmuls, lm_head = sizes["matmul_params"], sizes["n_embd"] * (sizes["vocab_rows"] or sizes["vocab_size"])
    if matmuls is not None and matmuls <= lm_head:
        return f"matmul_params {matmuls} is not above the {lm_head} of the lm_head (n_embd x vocab_size), which it includes"
    if sizes["mlp_matmuls"] not in (2, 3):
        return f"mlp_matmuls {sizes['mlp_matmuls']} is not 2, or 3 for a gated MLP"
    return None


def short(value: object) -> str:
    """A value as Python writes it in ASCII, in a length that fits into a message."""
    if type(value) is int and abs(value) > LARGEST:
        return f"(a number of {value.bit_length()} bits)"
    text = ascii(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
