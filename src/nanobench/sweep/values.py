"""The values of options: what is written as text, read as numbers, names and sizes."""

import re
from collections.abc import Callable

from nanobench.errors import UserError

Value = str | int
MOST_VALUES = 1000
"""Values that one LIST can have."""
MOST = 1_000_000
"""The largest number that an option accepts, for counts and for seconds."""
MOST_MEMORY_BYTES = 2**60
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def at_commas(text: str) -> list[str]:
    """The parts of a LIST of values without commas."""
    return text.split(",")


def read_list(
    name: str, text: str, kind: type, split: Callable[[str], list[str]] = at_commas, words: tuple[str, ...] = ("auto",)
) -> list[Value]:
    """The values of a LIST in the given order, each once; `words` stay as they are. `split` gives its parts.

    Raises UserError that names the part that is wrong.
    """
    values: dict[Value, None] = {}
    for part in (part.strip() for part in split(text)):
        if not part:
            raise UserError(f"{name} {text!r} contains an empty value; write values between commas, like 1,4,8")
        values |= dict.fromkeys([part] if kind is str or part in words else read_numbers(name, part))
        if len(values) > MOST_VALUES:
            raise UserError(f"{name} lists more than {MOST_VALUES:,} values; give fewer, or use larger steps")
    return list(values)


def read_numbers(name: str, part: str) -> list[int]:
    """One part of a LIST of whole numbers from 1 up: a number, a doubling range 1-64*2, or a stepping range 8-64+8."""
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+)([*+])([0-9]+))?", part)
    if not match:
        raise UserError(
            f"{name} {part!r} is not a whole number; write 4, or 1,4,8, or a range: 1-64*2 (doubling), 8-64+8 (stepping)"
        )
    first, last, step = (None if digits is None else read_digits(name, digits) for digits in match.group(1, 2, 4))
    if not first:
        raise UserError(f"{name} {part} is below 1; give whole numbers from 1 up")
    return [first] if last is None or step is None else read_range(f"{name} {part!r}", first, last, match[3], step)


def read_digits(name: str, digits: str) -> int:
    """A whole number up to MOST. The digits are counted first, because Python refuses to read thousands of them."""
    digits = digits.lstrip("0") or "0"
    if len(digits) > len(str(MOST)) or int(digits) > MOST:
        raise UserError(f"{name} {shortened(digits)} is above {MOST:,}; give a smaller number")
    return int(digits)


def shortened(text: str, most: int = 40) -> str:
    """A text of at most so many characters: its end is replaced by dots."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def read_range(what: str, first: int, last: int, sign: str, step: int) -> list[int]:
    """The numbers from `first` up to at most `last`, each the one before times or plus `step`."""
    if step < (2 if sign == "*" else 1) or last < first:
        raise UserError(f"{what} is an empty or endless range; write a rising range like 1-64*2 or 8-64+8")
    numbers: list[int] = []
    value = first
    while value <= last and len(numbers) <= MOST_VALUES:
        numbers.append(value)
        value = value * step if sign == "*" else value + step
    if len(numbers) > MOST_VALUES:
        raise UserError(f"{what} has more than {MOST_VALUES:,} values; use larger steps")
    return numbers


def read_positive(name: str, text: str, auto: float) -> float:
    """A number above 0 and up to MOST, or `auto` where the text is 'auto'."""
    try:
        value = auto if text == "auto" else float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= MOST:
        raise UserError(f"--{name} {text!r} is not a number above 0 and up to {MOST:,}; write one, like {auto:g}")
    return value


def read_share(name: str, text: str, auto: float = 0.0) -> float:
    """A share of 2% or 0.02, above 0 and below 1, or `auto` where the text is 'auto'. Raises UserError for another text."""
    try:
        share = auto if text == "auto" else float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise UserError(f"--{name} {text!r} is not a share above 0 and below 1; write 2% or 0.02")
    return share


def read_minutes(text: str, option: str = "max-minutes", words: str = "") -> float:
    """A number of minutes above 0. Raises UserError for another text; `words` are those that the option takes too."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 < minutes <= MOST:
        raise UserError(f"--{option} {text!r} is not {words}a number above 0, up to {MOST:,}; give one, like 10")
    return minutes


def read_memory_limit(text: str, auto: int | None, name: str = "memory-limit") -> int | None:
    """Bytes of 4GiB, 500MB and so on; None for 'none'; `auto` where the text is 'auto'."""
    if text == "auto":
        return auto
    if text == "none":
        return None
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([A-Za-z]*)", text)
    limit = int(float(match[1]) * UNITS.get(match[2].upper(), 0)) if match else 0
    if not 0 < limit <= MOST_MEMORY_BYTES:
        raise UserError(f"--{name} {text!r} is not a size; write 4GiB, 500MiB, or none")
    return limit
