"""Several processes that train one model: each takes its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn

from spd_tools.errors import SpdToolsError

_PATIENCE = timedelta(hours=2)
"""How long ranks wait for each other: the first one evaluates and draws figures alone."""


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

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first rank goes through the block before the others: it makes the files that they find."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


def find_device(name: str | None) -> torch.device:
    """The device of that name; None: CUDA where there is one. Of several ranks on CUDA each takes a GPU of its own.

    Raises:
        SpdToolsError: when it is none that can be trained on, or is not there.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise SpdToolsError(f"{name!r} is no device; take cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise SpdToolsError(f"Training on {device.type!r} is not supported; take cpu, cuda or cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SpdToolsError("There is no CUDA device here; train with --device cpu.")
    if device == torch.device("cuda") and (rank := os.environ.get("LOCAL_RANK")) is not None:
        device = torch.device(f"cuda:{rank}")
        torch.cuda.set_device(device)
    return device


def join_world(device: torch.device) -> World:
    """Meet the other ranks, where the environment (RANK, WORLD_SIZE, as torchrun sets them) says that there are any.

    Raises:
        SpdToolsError: when the ranks cannot meet.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    try:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
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
