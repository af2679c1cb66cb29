"""The files with the weights of a transformers model: found, compared with a model without loading them, and loaded.

Pickled weights are read with torch's `weights_only`, which runs no code.
"""

import importlib
import json
import pickle
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from nanobench.errors import UserError
from nanobench.models._huggingface_config import explained, library

SINGLE = ("model.safetensors", "pytorch_model.bin")
"""The file of an undivided model; with `.index.json` after it, the list of a divided one. The first is preferred."""
BROKEN = "download it or save it again"
SHOWN = 3
"""So many tensors are named in a message."""


def files_of(folder: Path) -> list[Path]:
    """The files with weights in a folder. Raises UserError if there are none, or if a list names what is no file beside it."""
    for name in SINGLE:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            with explained(f"{index} cannot be read", BROKEN):
                names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            wrong = [each for each in names if Path(each).name != each or not (folder / each).is_file()]
            if wrong:
                raise UserError(f"{index} names {wrong[0]!r}, which is no file beside it; {BROKEN}")
            return [folder / each for each in names]
    raise UserError(f"{folder} has no weights ({' or '.join(SINGLE)}); give a folder that has them, or write ?random after it")


def check(model: Any, folder: Path) -> None:
    """Compares the tensors in the files with a model on the meta device, loading nothing.

    Raises UserError for a file that cannot be read or wants to run code, for a tensor of another shape than in the model, and
    for a missing one. Where a file has names that the model does not have, transformers converts names: what is missing is
    then found only while it loads.
    """
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    found: set[str] = set()
    for file in files_of(folder):
        shapes = {name: list(tensor.shape) for name, tensor in tensors_of(file).items() if hasattr(tensor, "shape")}
        own = {name if name in expected else f"{model.base_model_prefix}.{name}": shape for name, shape in shapes.items()}
        refuse_other_shapes(file, [(name, shape, expected.get(name, shape)) for name, shape in own.items()])
        found |= own.keys()
    if found <= expected.keys():
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        refuse_missing(folder, [each[0] for each in names.values() if found.isdisjoint(each)])


def refuse_missing(folder: Path, names: Collection[str]) -> None:
    """Raises UserError if there are tensors of a model that its files do not have: transformers would make them random."""
    if names:
        raise UserError(f"{folder} has no weights for {listed(sorted(names))}; {BROKEN}")


def tensors_of(file: Path) -> dict[str, Any]:
    """The tensors of a file, on the meta device. Raises UserError as `check` says."""
    read = importlib.import_module("transformers.modeling_utils").load_state_dict
    with explained(f"{file} cannot be read", BROKEN):
        try:
            found = read(str(file), map_location="meta")
        except pickle.UnpicklingError as error:
            called = re.search(r"GLOBAL (\S+)", str(error))
            if called is None:
                raise
            what = f"wants to use {called[1]} while it is read, which is more than weights"
            raise UserError(f"{file} {what}; nothing of it was run: give safetensors") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} holds a {type(found).__name__} instead of tensors by name; {BROKEN}")
    return found


def refuse_other_shapes(source: object, pairs: Iterable[tuple[str, Any, Any]]) -> None:
    """Raises UserError if the two shapes of a tensor differ, of (name, shape in the file, shape in the model)."""
    other = [(name, list(has), list(wants)) for name, has, wants in sorted(pairs) if list(has) != list(wants)]
    texts = [f"{name} is {has} and should be {wants}" for name, has, wants in other]
    if texts:
        raise UserError(f"{source} does not fit the config: {listed(texts, '; ')}; correct config.json or the arguments")


def listed(texts: list[str], separator: str = ", ") -> str:
    """As many texts as fit into a message."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return separator.join(texts[:SHOWN]) + more


def load(folder: Path, config: Any, trust: bool) -> Any:
    """The model of a folder with its weights, in the dtype in which they are stored.

    Raises UserError for weights that are missing or have another shape.
    """
    files_of(folder)
    auto = library().AutoModelForCausalLM
    own = {"local_files_only": True, "trust_remote_code": trust, "ignore_mismatched_sizes": True, "output_loading_info": True}
    # A RuntimeError may say that the memory does not suffice.
    with explained(f"{folder} cannot be loaded", BROKEN, RuntimeError):
        model, found = auto.from_pretrained(str(folder), config=config, dtype="auto", **own)
    refuse_other_shapes(folder, found["mismatched_keys"])
    refuse_missing(folder, found["missing_keys"])
    return model
