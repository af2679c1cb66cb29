"""Ranks that train together under torchrun: who am I, what rank 0 decided, who was slowest."""

from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


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
