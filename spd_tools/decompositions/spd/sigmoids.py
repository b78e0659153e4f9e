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
_JUST_BELOW_0 = -torch.finfo(torch.float32).tiny


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
        revived = _where_above(gradient.clamp_max(0.0), -x, 0.0)
        inside = _where_above(gradient, x, _JUST_BELOW_0).sub_(_where_above(gradient, x, 1.0))
        return inside.add_(revived, alpha=LEAK)


class _UpperLeakyHard(torch.autograd.Function):
    """max(x, 0), with slope ``LEAK`` above 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x)
        raised = x.clamp_min(0.0)
        return torch.minimum(raised, (raised - 1).mul_(LEAK).add_(1))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        inside = _where_above(gradient, x, _JUST_BELOW_0)
        return inside.sub_(_where_above(gradient, x, 1.0), alpha=1 - LEAK)


def _where_above(values: Tensor, x: Tensor, threshold: float) -> Tensor:
    """``values`` where x > threshold, else 0: the one form of it that PyTorch vectorises on the CPU."""
    return torch.ops.aten.threshold_backward(values, x, threshold)


def hard(x: Tensor) -> Tensor:
    """clamp(x, 0, 1)."""
    return x.clamp(0.0, 1.0)


def lower_leaky_hard(x: Tensor) -> Tensor:
    """clamp(x, 0, 1) with a gradient that can revive a component below 0."""
    return _LowerLeakyHard.apply(x) if x.requires_grad else hard(x)


def upper_leaky_hard(x: Tensor) -> Tensor:
    """max(x, 0), with slope ``LEAK`` above 1."""
    return _UpperLeakyHard.apply(x)


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
