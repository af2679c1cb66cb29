"""What follows a prompt, from an engine or from the reference, and where the two differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanobench.records import Status


@dataclass(frozen=True, kw_only=True)
class TokenDifference:
    """A token that is not the one that the reference chooses after the same tokens."""

    place: int
    """number of the generated token, from 0"""
    token: int
    chosen: int
    """the reference's choice"""
    margin: float | None
    """difference of the reference's two largest logits; None where they are no numbers"""
    below: float | None
    """how far the reference's logit of the token is below its largest"""
    is_rounding: bool


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What follows a prompt: of an engine, or of the reference."""

    engine: str
    status: Status = Status.OK
    reason: str | None = None
    """why there is none, or what is wrong with it beside its tokens"""
    tokens: tuple[int, ...] = ()
    parts: tuple[str, ...] | None = None
    """its text: before the first difference, the token there, and after it; None where the tokens are no text"""
    tolerance: float | None = None
    """what rounding may change of a logit"""
    first: TokenDifference | None = None
    wrong: TokenDifference | None = None
    """the first difference that rounding cannot explain"""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Continuation":
        """The continuation that `asdict` turned into this document."""
        differences = {name: data[name] and TokenDifference(**data[name]) for name in ("first", "wrong")}
        parts = None if data["parts"] is None else tuple(data["parts"])
        lists = {"tokens": tuple(data["tokens"]), "parts": parts, "status": Status(data["status"])}
        return cls(**{**data, **lists, **differences})
