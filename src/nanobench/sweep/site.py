"""Where the workers of a sweep run: an executor, and what is held of this machine for it."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanobench import registry
from nanobench.errors import UserError
from nanobench.registry.plug_in import one_line
from nanobench.results import store
from nanobench.sweep import device_lock
from nanobench.sweep import plan as planning
from nanobench.sweep.executors import LOCAL, is_local, local
from nanobench.sweep.executors.base import Executor
from nanobench.sweep.options import TimedOptions


@dataclass(frozen=True)
class Site:
    """Where workers run."""

    executor: str = LOCAL
    """as it is written: a name, with arguments"""
    gpus: tuple[str, ...] = ()
    """held GPUs of this machine, each for workers of its own; none where every worker sees all devices"""

    @property
    def is_here(self) -> bool:
        """Whether workers run on this machine."""
        return is_local(self)


HERE = Site()


def site_of(options: Any) -> Site:
    """The site that options name, or that of the run that they continue, with nothing held."""
    if getattr(options, "resume", ""):
        return Site(store.run_at(options.resume).info().requested.get("executor", LOCAL))
    return Site(getattr(options, "executor", LOCAL))


@contextmanager
def held(options: TimedOptions, say: Callable[[str], None]) -> Iterator[Site]:
    """The site of a sweep. While the block runs its device is held, and other free GPUs where the device is any GPU.

    Nothing of this machine is held for workers that run elsewhere. Raises UserError as `device_lock.hold` does, and for options
    that no device could serve.
    """
    devices, any_gpu = devices_of(options)
    site = site_of(options)
    if not site.is_here:
        yield site
    elif any_gpu:
        with device_lock.hold_gpus(options.wait, say) as gpus:
            yield Site(gpus=gpus)
    else:
        with device_lock.hold_all(devices, options.wait, say):
            yield site


def devices_of(options: TimedOptions) -> tuple[list[str], bool]:
    """The devices to hold, known without torch, and whether each GPU of this machine would do. Raises UserError for options
    that no device could serve.
    """
    planning.describe_request(options)
    if options.resume:
        info = store.run_at(options.resume).info()
        device, ranks = info.description.device, max(point.world_size for point in info.plan.points)
        return device_lock.devices_of_ranks(device, ranks), device == "cuda" and ranks == 1
    device, ranks = device_lock.guess(options.device), planning.most_ranks(options.axes)
    any_gpu = device.startswith("cuda") and ":" not in options.device and ranks == 1
    return device_lock.devices_of_ranks(device, ranks), any_gpu


def temporary(site: Site) -> "tempfile.TemporaryDirectory[str]":
    """A folder that is deleted at the end. Workers elsewhere find it in the current folder, which they share."""
    return tempfile.TemporaryDirectory(prefix="nanobench-", dir=None if site.is_here else Path.cwd())


def build(site: Site, isolation: str, seed: int, cache: Path) -> Executor:
    """An executor of a site. Raises UserError where it cannot be made."""
    if site.is_here:
        return local.build(isolation, seed, cache, pinned=site.gpus) if site.gpus else local.build(isolation, seed, cache)
    try:
        made = registry.find("executors", site.executor)(isolation, seed, cache)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"executor {site.executor!r} cannot be made: {one_line(error)}; see docs/extend.md") from error
    if not all(callable(getattr(made, name, None)) for name in ("run", "close")):
        raise UserError(f"executor {site.executor!r} has no run() and close(); see docs/extend.md")
    return made
