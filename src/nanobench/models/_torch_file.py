"""A file of torch.save, read without running code that it holds.

`torch.load(weights_only=True)` runs no code either. Before it, the file is checked without torch: the sizes that its directory
gives must fit into the file, and its pickle may name only what tensors and plain values need. So a message can say what a file
wants to run, and a small file cannot make torch allocate much memory.
"""

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

from nanobench.errors import UserError

PICKLE = "data.pkl"
"""The entry of the zip file that describes all tensors; their data are entries of their own."""
SAFE = re.compile(
    r"collections\.OrderedDict|builtins\.set|torch\.(Size|device)|torch\._utils\._rebuild_(tensor_v2|tensor_v3|parameter)"
    r"|torch\.\w+Storage|torch\.(bool|bfloat16|float\d\w*|u?int\d+|complex\d+)"
)
"""What the pickle of a checkpoint may name: dicts, tensors and dtypes."""
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules that old pickle protocols name as Python 2 did."""
SHOWN = 80
"""Characters of a name in a message."""
PREFIX_BYTES = 2**20
"""So much of a file that is no checkpoint is searched for the names of a pickle."""


def read(path: Path) -> Any:
    """What torch.save wrote: plain values, and tensors whose data stay in the file until they are used.

    Raises UserError for every other file, and for one whose pickle wants to run code.
    """
    refuse_code(path, pickled_by(path))
    try:
        with torch.device("cpu"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} cannot be read: its pickle is none of torch.save(..., pickle_protocol=2)") from error
    except Exception as error:
        raise UserError(f"{path} is damaged: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """An exception as one line that fits into a message: its type and the first line of its text."""
    words = " ".join(str(error).strip().partition("\n")[0].split())
    return f"{type(error).__name__}: {ascii(words)[1:-1][: 2 * SHOWN]}"


# The zip file
def pickled_by(path: Path) -> bytes:
    """The pickle in a file of torch.save. Raises UserError for another file, and for sizes that contradict the file's."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            wrong = wrong_entries(entries, path.stat().st_size)
            if wrong is not None:
                raise UserError(f"{path} is no checkpoint: {wrong}")
            return archive.read(next(each for each in entries if is_pickle(each)))
    except (UserError, MemoryError):
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    except Exception as error:
        raise UserError(f"{path} {why_no_zip(path, error)}") from error


def is_pickle(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is the pickle. Its folder has the name of the file as it was when it was saved."""
    return entry.filename.partition("/")[2] == PICKLE


def wrong_entries(entries: list[zipfile.ZipInfo], size: int) -> str | None:
    """What is wrong with the directory of a zip file of `size` bytes, in words; None if nothing is."""
    if any(each.compress_type != zipfile.ZIP_STORED for each in entries):
        return "its entries are compressed, which torch.save does not do"
    claimed = sum(each.file_size for each in entries)
    if claimed > size:
        return f"its entries claim {claimed} bytes, but the file has {size}"
    if sum(map(is_pickle, entries)) != 1 or len({each.filename for each in entries}) != len(entries):
        return f"it does not hold one {PICKLE} of torch.save"
    return None


def why_no_zip(path: Path, error: Exception) -> str:
    """What a file is that cannot be opened as a zip file, in words. Raises UserError for a pickle that wants to run code."""
    with path.open("rb") as file:
        begin = file.read(PREFIX_BYTES)
    if not begin:
        return "is empty"
    if begin.startswith(b"PK"):
        return f"is truncated or damaged: {first_line(error)}"
    refuse_names(path, names_of_all(begin))
    return "is no file of torch.save (since torch 1.6 a zip file)"


# The pickle
def refuse_code(path: Path, pickled: bytes) -> None:
    """Raises UserError for a pickle that wants to run code, or is damaged."""
    try:
        refuse_names(path, names_in(io.BytesIO(pickled)))
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{path} is damaged: {first_line(error)}") from error


def refuse_names(path: Path, names: Iterable[str]) -> None:
    """Raises UserError for the first name that no checkpoint needs."""
    for name in names:
        if not SAFE.fullmatch(name):
            raise UserError(
                f"{path} is not loaded, because it wants to run {ascii(name)[1:-1][:SHOWN]}; "
                "a checkpoint may hold only tensors and plain values"
            )


def names_of_all(pickled: bytes) -> list[str]:
    """The names in pickles that follow each other, as far as they are complete."""
    found: list[str] = []
    file = io.BytesIO(pickled)
    with suppress(Exception):
        while file.tell() < len(pickled):
            found += list(names_in(file))
    return found


def names_in(file: IO[bytes]) -> Iterator[str]:
    """The functions and classes that a pickle names, as module.name; nothing is run.

    A pickle calls nothing that it does not name. The memo of strings is followed only for the message: `torch.load` refuses
    names that a pickle takes from its stack.
    """
    memo: dict[int, str] = {}
    strings = deque(["?", "?"], maxlen=2)
    for code, value, _ in pickletools.genops(file):
        if code.name in ("GLOBAL", "INST"):
            yield dotted(*str(value).split(" ", 1))
        elif code.name == "STACK_GLOBAL":
            yield dotted(*strings)
        elif "UNICODE" in code.name:
            strings.append(str(value))
        elif code.name == "MEMOIZE" or "PUT" in code.name:
            memo[len(memo) if value is None else value] = strings[-1]
        elif "GET" in code.name:
            strings.append(memo.get(value or 0, "?"))


def dotted(module: str, name: str = "?") -> str:
    """The name of a function or a class with its module."""
    return f"{RENAMED.get(module, module)}.{name}"
