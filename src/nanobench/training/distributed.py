"""Ranks that train together under torchrun: who am I, what rank 0 decided, who was slowest."""

import json
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
TIMEOUT = timedelta(days=12)
"""How long ranks wait for one that says nothing: longer than any --timeout. One that died is noticed at once."""
LAUNCHER = "NANOBENCH_LAUNCHER"
"""The variable that tells a rank which process it must not outlive."""


@dataclass(frozen=True)
class World:
    """One rank's view of all ranks. Words go over gloo, gradients over NCCL where there is a GPU for each."""

    rank: int = 0
    size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank decides."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def broadcast(self, value: T) -> T:
        """What rank 0 has in this place."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def all_gather(self, value: T) -> list[T]:
        """What every rank has in this place, in their order."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]


ALONE = World()


def here() -> World:
    """What torchrun says of this process; alone without it."""
    return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if "RANK" in os.environ else ALONE


def device_of(name: str) -> torch.device:
    """The device of this rank: on CUDA each has its own."""
    local = os.environ.get("LOCAL_RANK")
    return torch.device(f"cuda:{local}" if local is not None and name.startswith("cuda") else name)


def set_device(device: torch.device) -> None:
    """Makes a numbered GPU the one that this process means by CUDA."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def folder_of(out: Path) -> Path:
    """Where this rank's probes may write: the one that leads into the trial's folder, each other one into its own."""
    rank = here().rank
    own = out / f"rank-{rank}" if rank else out
    own.mkdir(parents=True, exist_ok=True)
    return own


def join(device: torch.device) -> World:
    """Meets the other ranks; alone without torchrun."""
    world = here()
    if world.size > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return world


def launch(size: int, arguments: list[str]) -> None:
    """Has torchrun start and watch a worker as ranks on this machine. It never restarts them, and Ctrl-C is not for it: the
    worker's parent decides when it ends.
    """
    from torch.distributed import run

    os.setsid()
    os.environ[LAUNCHER] = str(os.getpid())
    if sys.platform == "linux":
        # Ranks of one machine meet on its loopback, whatever its name resolves to.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    run.main(["--standalone", "--max-restarts=0", f"--nproc-per-node={size}", "-m", "nanobench.worker", *arguments])


def is_orphan() -> bool:
    """Whether this rank's launcher died before the rank could ask to die with it."""
    return os.environ.get(LAUNCHER, str(os.getppid())) != str(os.getppid())


def abort(folder: Path, status: str, reason: str | None) -> NoReturn:
    """Leaves why this rank failed, and ends: its peers wait for it in the middle of a step, and torchrun ends them."""
    try:
        with open(folder / "failure.json", "x") as file:
            json.dump({"status": status, "reason": f"rank {here().rank}: {reason}"}, file)
    except FileExistsError:
        pass
    os._exit(1)
