"""Distributed training under torchrun: rank and world size, collectives on Python objects, launch and abort."""

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
"""Timeout of collectives: longer than any --timeout. A rank that died is noticed at once."""


@dataclass(frozen=True)
class World:
    """This process as one of `size` ranks. Python objects are exchanged with gloo, gradients on GPUs with NCCL."""

    rank: int = 0
    size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which decides and reports for all ranks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits until every rank has called it."""
        if self.size > 1:
            dist.barrier()

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]


SINGLE_PROCESS = World()


def current_world() -> World:
    """Rank and world size from torchrun's environment variables; a single process without them."""
    return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if "RANK" in os.environ else SINGLE_PROCESS


def rank_device(name: str) -> torch.device:
    """The device of this rank: on CUDA each rank has its own GPU."""
    local = os.environ.get("LOCAL_RANK")
    return torch.device(f"cuda:{local}" if local is not None and name.startswith("cuda") else name)


def set_device(device: torch.device) -> None:
    """Makes a numbered GPU this process's current CUDA device."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def rank_folder(out: Path) -> Path:
    """The folder that this rank's probes write to: the trial's folder for rank 0, a subfolder for each other rank."""
    rank = current_world().rank
    own = out / f"rank-{rank}" if rank else out
    own.mkdir(parents=True, exist_ok=True)
    return own


def join(device: torch.device) -> World:
    """Initializes the process group with the other ranks; does nothing without torchrun."""
    world = current_world()
    if world.size > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return world


def launch(size: int, arguments: list[str]) -> None:
    """Runs torchrun, which starts `size` ranks of the worker on this machine and never restarts them.

    It runs in a session of its own: Ctrl-C goes to the worker's parent, which decides when the ranks end.
    """
    from torch.distributed import run

    os.setsid()
    if sys.platform == "linux":
        # Use the loopback interface: the host name may resolve to an address that is not reachable.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    run.main(["--standalone", "--max-restarts=0", f"--nproc-per-node={size}", "-m", "nanobench.worker", *arguments])


def abort(folder: Path, status: str, reason: str | None) -> NoReturn:
    """Writes `failure.json` with this rank's status and reason, unless another rank was first, and exits.

    The other ranks may wait for this one in a collective; torchrun ends them.
    """
    try:
        with open(folder / "failure.json", "x") as file:
            json.dump({"status": status, "reason": f"rank {current_world().rank}: {reason}"}, file)
    except FileExistsError:
        pass
    os._exit(1)
