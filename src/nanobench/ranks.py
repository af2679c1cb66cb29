"""Ranks that train together under torchrun: who am I, what rank 0 decided, who was slowest."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
PATIENCE = timedelta(seconds=120)
"""How long a rank waits for another that says nothing."""


@dataclass(frozen=True)
class World:
    """One rank's view of all ranks. Words go over gloo, gradients over NCCL where there is a GPU for each."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this rank decides."""
        return self.rank == 0

    def meet(self) -> None:
        """Waits until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def decided(self, value: T) -> T:
        """What rank 0 has in this place."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def heard(self, value: T) -> list[T]:
        """What every rank has in this place, in their order."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]


ALONE = World()


def join(device: torch.device) -> World:
    """The world that torchrun started this process in; alone without one."""
    if "RANK" not in os.environ:
        return ALONE
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    return World(dist.get_rank(), dist.get_world_size())
