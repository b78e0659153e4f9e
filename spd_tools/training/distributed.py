"""Several processes that train one model: each takes its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spd_tools.errors import SpdToolsError


@dataclass(frozen=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    """Where the ranks' messages have to be."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and evaluates."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """Sum over ranks. Its gradient on each rank is ``size`` times its own share's.

        Gradients are averaged over ranks in the end, which makes that the gradient of the sum.
        """
        if self.size == 1:
            return x
        total = x.detach().clone()
        torch.distributed.all_reduce(total)
        scaled = x * self.size
        return scaled + (total - scaled.detach())

    def from_first(self, x: Tensor) -> Tensor:
        """The first rank's tensor, on all ranks."""
        if self.size > 1:
            torch.distributed.broadcast(x, 0)
        return x

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over ranks, in place."""
        if self.size == 1:
            return
        listed = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in listed])
        torch.distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(listed, flat.split([tensor.numel() for tensor in listed]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean over ranks of every gradient that there is (the same ones on all ranks)."""
        self.average(parameter.grad for parameter in parameters if parameter.grad is not None)

    def agreed(self, flag: bool) -> bool:
        """Whether any rank says so; the same answer on all of them."""
        if self.size == 1:
            return flag
        told = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(told)
        return bool(told.item())

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            torch.distributed.barrier()


def join_world(device: torch.device) -> World:
    """Meet the other ranks, where the environment (RANK, WORLD_SIZE, as torchrun sets them) says that there are any.

    Raises:
        SpdToolsError: when the ranks cannot meet.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    try:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise SpdToolsError(
            f"The {size} ranks of this training cannot meet ({str(error).splitlines()[0]}); "
            "check MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE."
        ) from error
    return World(torch.distributed.get_rank(), size, str(device))


def leave_world(world: World) -> None:
    """The counterpart of ``join_world``."""
    if world.size > 1:
        torch.distributed.destroy_process_group()
