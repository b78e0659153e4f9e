"""Training losses, as functions of one step's pass. Formulas: Bushnaq et al. 2025, arXiv:2506.20790."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from spd_tools.training.distributed import World
from spd_tools.training.loss_configs import FaithfulnessConfig, ImportanceMinimalityConfig, LossConfig
from spd_tools.training.masks import Sampling
from spd_tools.training.model import ComponentModel
from spd_tools.training.noise import Noise
from spd_tools.training.outputs import OutputDistance
from spd_tools.training.schedules import annealed


@dataclass(frozen=True)
class StepPass:
    """What the losses of one batch are computed from."""

    model: ComponentModel
    batch: Tensor
    """[batch, seq] token ids, of toys [batch, n_features]."""
    distance: OutputDistance
    """From the target's output on this batch."""
    importances: Mapping[str, Tensor]
    """Layer -> lower-leaky causal importances [*positions, C]."""
    upper: Mapping[str, Tensor]
    """Layer -> upper-leaky causal importances [*positions, C]."""
    noise: Noise
    step: int
    """0 <= step < steps."""
    steps: int
    sampling: Sampling = "continuous"
    use_delta: bool = True
    """Whether what the components leave over has a mask of its own under random and adversarial masks."""
    n_mask_samples: int = 1
    world: World = field(default_factory=World)

    @property
    def positions(self) -> torch.Size:
        """(batch, seq), of toys (batch,)."""
        return self.model.positions(self.batch)


class Loss(Protocol):
    """One summand of what is minimised."""

    def pieces(self, now: StepPass) -> Iterator[Tensor]:
        """Scalars whose sum is the loss; each may be differentiated and freed before the next is computed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it keeps from step to step."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take that back."""
        ...


class StatelessLoss:
    """A loss that keeps nothing from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take."""


class Faithfulness(StatelessLoss):
    """Sum over layers of ||W - sum_c W_c||_F^2, over the number of all their weights."""

    def pieces(self, now: StepPass) -> Iterator[Tensor]:
        """One per layer."""
        return faithfulness_pieces(now.model)


def faithfulness_pieces(model: ComponentModel) -> Iterator[Tensor]:
    """The faithfulness loss, layer by layer."""
    n_weights = model.n_weights
    for name in model.components:
        yield model.faithfulness(name) / n_weights


class ImportanceMinimality(StatelessLoss):
    """Sum over layers and components of a_c (1 + beta log2(1 + N a_c)).

    a_c is the mean over the N positions (of all ranks) of (upper-leaky causal importance + eps)^p.
    """

    def __init__(self, config: ImportanceMinimalityConfig) -> None:
        self.config = config

    def p(self, step: int, steps: int) -> float:
        """The exponent at a step."""
        config = self.config
        done = step / max(1, steps - 1)
        return annealed(
            config.pnorm, config.p_anneal_final_p, config.p_anneal_start_frac, config.p_anneal_end_frac, done
        )

    def pieces(self, now: StepPass) -> Iterator[Tensor]:
        """One per layer."""
        p = self.p(now.step, now.steps)
        n_positions = now.positions.numel() * now.world.size
        for importance in now.upper.values():
            sums: Tensor = _PowerSums.apply(importance, p, self.config.eps)  # pyright: ignore[reportAssignmentType]
            sums = now.world.sum(sums)
            means = sums / n_positions
            yield (means * (1 + self.config.beta * torch.log2(1 + sums))).sum() if self.config.beta else means.sum()


class _PowerSums(torch.autograd.Function):
    """[..., C] -> [C]: sum over positions of (x + eps)^p."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, eps: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        shifted = x.flatten(0, -2) + eps
        powers = shifted.pow(p)
        ctx.save_for_backward(shifted, powers)
        ctx.p, ctx.shape = p, x.shape
        return powers.sum(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        shifted, powers = ctx.saved_tensors
        return (powers / shifted).mul_(ctx.p * gradient).view(ctx.shape), None, None


def build_loss(config: LossConfig) -> Loss:
    """The loss that a configuration describes."""
    if isinstance(config, FaithfulnessConfig):
        return Faithfulness()
    if isinstance(config, ImportanceMinimalityConfig):
        return ImportanceMinimality(config)
    from spd_tools.training.reconstruction import build_reconstruction

    return build_reconstruction(config)
