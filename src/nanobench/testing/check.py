"""A check: one part of a contract, and whether a member keeps it. An exception in a check is its failure."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from nanobench.errors import Skip
from nanobench.registry.plug_in import one_line

T = TypeVar("T")
NOT_CHECKED = "not checked: "


class Broken(Exception):
    """A part of a contract is broken; the message says how."""


class NotChecked(Exception):
    """A part of a contract does not apply; the message says why."""


@dataclass(frozen=True)
class Check:
    """One part of a contract, and whether a member keeps it."""

    name: str
    passed: bool
    note: str = ""
    """what was found; it begins with `not checked` where this part does not apply to the member"""


class Checks:
    """The checks of one member, as they are carried out."""

    def __init__(self) -> None:
        self.found: list[Check] = []

    def run(self, name: str, work: Callable[[], T]) -> T | None:
        """Carries out one check; a text that it returns is the note. Returns None where it fails or does not apply."""
        try:
            result = work()
        except NotChecked as reason:
            self.found.append(Check(name, True, f"{NOT_CHECKED}{reason}"))
        except Broken as error:
            self.found.append(Check(name, False, str(error)))
        except (Exception, SystemExit) as error:
            self.found.append(Check(name, False, f"it raises {one_line(error)}"))
        else:
            self.found.append(Check(name, True, result if isinstance(result, str) else ""))
            return result
        return None


def assert_contract(checks: Iterable[Check]) -> None:
    """Raises AssertionError with the checks that failed, one per line; also where there are no checks."""
    found = tuple(checks)
    failed = [f"  {each.name}: {each.note}" for each in found if not each.passed]
    if failed:
        raise AssertionError("\n".join([f"{len(failed)} of {len(found)} checks of the contract failed:", *failed]))
    if not found:
        raise AssertionError("there is no check; pass what check_model(build) or a similar function returns")


@contextmanager
def seeded(device: str) -> Iterator[None]:
    """Within the context torch's generators start from a fixed seed, and no operation records gradients."""
    with torch.random.fork_rng([device] if device.startswith("cuda") else []), torch.no_grad():
        torch.manual_seed(0)
        yield


def skipped(work: Callable[[], T]) -> T:
    """The result of `work`, in which a member may raise Skip for what it does not have."""
    try:
        return work()
    except Skip as reason:
        raise NotChecked(str(reason)) from None


def compare(found: Tensor, expected: Tensor, what: str, tolerance: float) -> str:
    """Raises Broken where logits have another shape, or differ by more than `tolerance` times the largest expected one."""
    if found.shape != expected.shape:
        raise Broken(f"{what} have the shape {list(found.shape)} instead of {list(expected.shape)}")
    scale = expected.double().abs().max().item()
    error = (found.double() - expected.double()).abs().max().item() / max(scale, 1e-300)
    if not error <= tolerance:
        raise Broken(f"{what} are off by {error:.2g} of the largest logit (tolerance {tolerance:.0e})")
    return f"within {error:.1g} of the largest logit"
