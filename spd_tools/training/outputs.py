"""How far a masked output is from the target's."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from spd_tools.training.model import at_least_f32


class OutputDistance(Protocol):
    """Distance of an output from the target's on the same batch; the target's part is computed once."""

    def __call__(self, output: Tensor) -> Tensor:
        """Mean over positions; a scalar in nats (KL) or a mean square (MSE)."""
        ...


def distance_to(target_output: Tensor, by: Literal["kl", "mse"]) -> OutputDistance:
    """The distance that a configuration names."""
    return KlDistance(target_output) if by == "kl" else MseDistance(target_output)


class KlDistance:
    """KL(target || output), mean over positions, in nats."""

    def __init__(self, target_logits: Tensor) -> None:
        """target_logits: [..., vocab]."""
        with torch.no_grad():
            self.log_p = at_least_f32(target_logits).log_softmax(-1)
            self._p = self.log_p.exp()

    def __call__(self, output: Tensor) -> Tensor:
        """output: logits [..., vocab]."""
        return _MeanKl.apply(output, self.log_p, self._p)  # pyright: ignore[reportReturnType]


class MseDistance:
    """Mean over all entries of the squared difference."""

    def __init__(self, target_output: Tensor) -> None:
        self._target = at_least_f32(target_output).detach()

    def __call__(self, output: Tensor) -> Tensor:
        """output: [..., n_features]."""
        return F.mse_loss(output, self._target)


class _MeanKl(torch.autograd.Function):
    """Its gradient in the logits is (softmax(logits) - p) / positions."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_p: Tensor, p: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        log_q = logits.log_softmax(-1)
        ctx.save_for_backward(log_q, p)
        positions = logits.numel() // logits.shape[-1]
        return torch.dot(p.flatten(), (log_p - log_q).flatten()) / positions

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        log_q, p = ctx.saved_tensors
        positions = log_q.numel() // log_q.shape[-1]
        return log_q.exp().sub_(p).mul_(gradient / positions), None, None
