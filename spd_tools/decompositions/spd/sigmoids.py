"""Squashing functions: from the output of a causal-importance function to a causal importance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from spd_tools.errors import SpdToolsError

Bound = Literal["lower", "upper"]
"""Under "leaky_hard": "lower" is what harvesting reads, "upper" what the sparsity loss sees."""

LEAK = 0.01
"""Slope of the leaky side."""


class _LowerLeakyHard(torch.autograd.Function):
    """clamp(x, 0, 1); below 0 the gradient passes with slope ``LEAK`` where it would raise x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x)
        return x.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        # Descent raises x where the gradient is negative.
        below = torch.where(gradient < 0, LEAK * gradient, torch.zeros_like(gradient))
        inside = torch.where(x <= 1, gradient, torch.zeros_like(gradient))
        return torch.where(x < 0, below, inside)


def hard(x: Tensor) -> Tensor:
    """clamp(x, 0, 1)."""
    return x.clamp(0.0, 1.0)


def lower_leaky_hard(x: Tensor) -> Tensor:
    """clamp(x, 0, 1) with a gradient that can revive a component below 0."""
    return _LowerLeakyHard.apply(x) if x.requires_grad else hard(x)


def upper_leaky_hard(x: Tensor) -> Tensor:
    """max(x, 0), with slope ``LEAK`` above 1."""
    return torch.where(x > 1, 1 + LEAK * (x - 1), x.clamp_min(0.0))


_BOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": torch.sigmoid,
    "hard": hard,
    "lower_leaky_hard": lower_leaky_hard,
    "upper_leaky_hard": upper_leaky_hard,
}


CLAMPING = ("leaky_hard", "hard", "lower_leaky_hard")
"""Types whose lower bound is clamp(x, 0, 1)."""


def squashing(sigmoid_type: str, bound: Bound) -> Callable[[Tensor], Tensor]:
    """The squashing function that a run's ``sigmoid_type`` names.

    The jitter that training adds under ``sampling: binomial`` is no part of it.

    Raises:
        SpdToolsError: for a type whose formula is not known here.
    """
    if sigmoid_type == "leaky_hard":
        return lower_leaky_hard if bound == "lower" else upper_leaky_hard
    if sigmoid_type not in _BOTH:
        known = ", ".join(["leaky_hard", *_BOTH])
        raise SpdToolsError(
            f"The run squashes its causal importances with sigmoid_type {sigmoid_type!r}, which cannot be read yet; "
            f"the types that can are {known}."
        )
    return _BOTH[sigmoid_type]


def causal_importance(pre_ci: Tensor, bound: Bound = "lower", sigmoid_type: str = "leaky_hard") -> Tensor:
    """Squash the output of a causal-importance function; any shape."""
    return squashing(sigmoid_type, bound)(pre_ci)
