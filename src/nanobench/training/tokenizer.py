"""Tokenizers: a text becomes tokens, and tokens become a text again.

`bytes` has a token per byte. With `ids` there is no text: what is read are token ids. A path that ends in .json is a file of
the package `tokenizers` (Hugging Face). Any other name is one of tiktoken's encodings.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nanobench.errors import UserError
from nanobench.schema import BYTES, IDS, TOKENIZER_FILE

NUMPY = b"\x93NUMPY"
"""How a .npy file begins. No text in UTF-8 does."""
LARGEST_ID = 2**31 - 1
MOST_CHARACTERS = 40
"""of a value in a message"""


class Tokenizer(Protocol):
    """Between texts and tokens."""

    def encode(self, data: bytes, what: str) -> Tensor:
        """The tokens [N] of a text. `what` names it in messages. Raises UserError for a text that it cannot read."""
        ...

    def decode(self, tokens: Sequence[int]) -> str | None:
        """The text of some tokens; None where the tokenizer has none for them."""
        ...


def find(name: str) -> Tokenizer:
    """A tokenizer by its name. Raises UserError where it is not installed or cannot be read."""
    if name == BYTES:
        return Bytes()
    if name == IDS:
        return TokenIds()
    return FromFile(name, load(name)) if name.endswith(TOKENIZER_FILE) else Encoding(name, tiktoken_encoding(name))


class Bytes:
    """A token per byte: any file can be read, and 256 tokens are enough."""

    def encode(self, data: bytes, what: str) -> Tensor:
        """See Tokenizer.encode."""
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).long() if data else torch.empty(0, dtype=torch.long)

    def decode(self, tokens: Sequence[int]) -> str | None:
        """See Tokenizer.decode. A byte that is not UTF-8 is written as \\xff."""
        return bytes(tokens).decode(errors="backslashreplace") if max(tokens, default=0) < 256 else None


class TokenIds:
    """No text at all: whole numbers between white space or commas, a JSON list of them, or a .npy file."""

    def encode(self, data: bytes, what: str) -> Tensor:
        """See Tokenizer.encode."""
        if data.startswith(NUMPY):
            return ids_of_array(data, what)
        text = as_text(data, what).strip()
        words = re.split(r"[\s,]+", text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text)
        return torch.tensor([token_id(word, what) for word in words if word], dtype=torch.long)

    def decode(self, tokens: Sequence[int]) -> str | None:
        """See Tokenizer.decode."""
        return None


@dataclass(frozen=True)
class FromFile:
    """A tokenizer of the package `tokenizers`. It adds no special tokens."""

    name: str
    inner: Any

    def encode(self, data: bytes, what: str) -> Tensor:
        """See Tokenizer.encode."""
        return torch.tensor(self.inner.encode(as_text(data, what), add_special_tokens=False).ids, dtype=torch.long)

    def decode(self, tokens: Sequence[int]) -> str | None:
        """See Tokenizer.decode."""
        if any(self.inner.id_to_token(token) is None for token in tokens):
            return None
        return str(self.inner.decode(list(tokens), skip_special_tokens=False))


@dataclass(frozen=True)
class Encoding:
    """An encoding of tiktoken. Special tokens in the text are read as text."""

    name: str
    inner: Any

    def encode(self, data: bytes, what: str) -> Tensor:
        """See Tokenizer.encode."""
        return torch.tensor(self.inner.encode_ordinary(as_text(data, what)), dtype=torch.long)

    def decode(self, tokens: Sequence[int]) -> str | None:
        """See Tokenizer.decode."""
        try:
            return str(self.inner.decode(list(tokens)))
        except Exception:
            # The kind of exception for a token that is not known differs from version to version.
            return None


def load(path: str) -> Any:
    """A tokenizer from its file. Raises UserError for a file that cannot be read."""
    try:
        from tokenizers import Tokenizer as Loaded
    except ImportError:
        raise UserError(f"--tokenizer {path} needs the package tokenizers; install it, or give {BYTES}") from None
    try:
        return Loaded.from_file(path)
    except Exception as error:
        raise UserError(f"--tokenizer {path} cannot be read ({one_line(error)}); give a tokenizer.json, or {BYTES}") from None


def tiktoken_encoding(name: str) -> Any:
    """One of tiktoken's encodings. Raises UserError if tiktoken or the encoding's data is not installed."""
    try:
        import tiktoken

        return tiktoken.get_encoding(name)
    except Exception as error:
        raise UserError(
            f"--tokenizer {name!r} is not installed ({one_line(error)}); give {BYTES}, or install tiktoken and its data"
        ) from None


def one_line(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def as_text(data: bytes, what: str) -> str:
    """Bytes as text. Raises UserError where they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not UTF-8 (byte {error.start}); give a text in UTF-8, or --tokenizer {BYTES}") from None


def token_id(word: str, what: str) -> int:
    """A token id. Raises UserError for anything else."""
    if not re.fullmatch(r"[0-9]{1,10}", word) or int(word) > LARGEST_ID:
        short = word if len(word) <= MOST_CHARACTERS else f"{word[: MOST_CHARACTERS - 3]}..."
        raise UserError(f"{what}: {short!r} is not a token id; write whole numbers like 1,2,3, or give another --tokenizer")
    return int(word)


def ids_of_array(data: bytes, what: str) -> Tensor:
    """The token ids in a .npy file. Raises UserError for a damaged file, and for numbers that are no token ids."""
    try:
        ids_N = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise UserError(f"{what} is a damaged .npy file ({one_line(error)}); save the token ids again") from None
    if ids_N.ndim != 1 or ids_N.dtype.kind not in "iu":
        found = f"{ids_N.dtype} in {ids_N.ndim} dimensions"
        raise UserError(f"{what} has {found}; save token ids as whole numbers in one dimension")
    outside_N = ids_N[(ids_N < 0) | (ids_N > LARGEST_ID)]
    if len(outside_N):
        raise UserError(f"{what} has {outside_N[0]}, which is not a token id; save whole numbers from 0 to {LARGEST_ID}")
    return torch.from_numpy(ids_N.astype(np.int64))
