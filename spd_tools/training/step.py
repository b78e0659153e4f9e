"""One training step: from a batch to gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from spd_tools.training.config import TrainingConfig
from spd_tools.training.distributed import World
from spd_tools.training.losses import Loss, StepPass
from spd_tools.training.masks import Sampling
from spd_tools.training.model import CleanPass, ComponentModel
from spd_tools.training.noise import Noise
from spd_tools.training.outputs import distance_to


@dataclass(frozen=True)
class WeightedLoss:
    """A summand and its weight."""

    name: str
    coeff: float
    loss: Loss


def causal_importances(
    model: ComponentModel, clean: CleanPass, noise: Noise | None, sampling: Sampling
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Lower- and upper-leaky causal importances of every layer [*positions, C].

    Args:
        model: Computes them.
        clean: What its modules read.
        noise: For the jitter 1.05 x - 0.05 u of binomial sampling, which training adds; None: none.
        sampling: As configured.
    """
    pre = model.pre_ci(clean.inputs)
    lower: dict[str, Tensor] = {}
    for name, x in pre.items():
        if noise is not None and sampling == "binomial":
            x = 1.05 * x - 0.05 * noise.uniform(*x.shape)
        lower[name] = model.lower(x)
    return lower, {name: model.upper(x) for name, x in pre.items()}


def backward_step(
    model: ComponentModel,
    losses: list[WeightedLoss],
    config: TrainingConfig,
    batch: Tensor,
    *,
    noise: Noise,
    step: int,
    world: World,
    autocast: bool = False,
) -> dict[str, Tensor]:
    """Add the gradient of the weighted sum of losses to the parameters' and return the losses, unweighted.

    The target runs once and the causal importances are computed once. Every loss is differentiated down to them as
    soon as it is there, which frees its graph; the causal-importance function is differentiated once, in the end.
    """
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=autocast):
        clean = model.clean(batch)
        lower, upper = causal_importances(model, clean, noise, config.sampling)
        lower_leaves, upper_leaves = _leaves(lower), _leaves(upper)
        now = StepPass(
            model=model,
            batch=batch,
            distance=distance_to(clean.output, config.compares_by),
            importances=lower_leaves,
            upper=upper_leaves,
            noise=noise,
            step=step,
            steps=config.steps,
            sampling=config.sampling,
            use_delta=config.use_delta_component,
            n_mask_samples=config.n_mask_samples,
            world=world,
        )
        values = {weighted.name: _accumulate(weighted, now) for weighted in losses}
    outputs, gradients = [], []
    for computed, leaves in ((lower, lower_leaves), (upper, upper_leaves)):
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                outputs.append(computed[name])
                gradients.append(leaf.grad)
    if outputs:
        torch.autograd.backward(outputs, gradients)
    return values


def _leaves(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().requires_grad_() for name, value in values.items()}


def _accumulate(weighted: WeightedLoss, now: StepPass) -> Tensor:
    total = torch.zeros((), device=now.batch.device)
    for piece in weighted.loss.pieces(now):
        (weighted.coeff * piece).backward()
        total = total + piece.detach()
    return total
