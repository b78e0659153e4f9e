"""Adversarial masks: s and d that raise the reconstruction loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Size, Tensor

from spd_tools.errors import SpdToolsError
from spd_tools.training.loss_configs import AdamAscent, PersistentPgdConfig, PgdConfig
from spd_tools.training.masks import Sources, at_rows, source_mask
from spd_tools.training.model import LayerMask

if TYPE_CHECKING:
    from spd_tools.training.losses import StepPass
    from spd_tools.training.reconstruction import Route


def ascend(now: StepPass, route: Route, config: PgdConfig) -> dict[str, Tensor]:
    """Sources that ``n_steps`` of sign ascent on the loss reach, clamped to [0, 1] after each.

    Args:
        now: The step; its causal importances are constants here.
        route: Layers that use components -> the flat positions where they do.
        config: Start, steps and what shares one s.

    Returns:
        Layer -> constants [*positions or ones, C (+ 1 for d)].
    """
    shared = config.mask_scope == "shared_across_batch"
    shape = Size([1] * len(now.positions)) if shared else now.positions
    sources = {name: _start(now, name, shape, config.init) for name in route}
    for _ in range(config.n_steps):
        gradients = loss_gradients(now, route, sources)
        if shared:
            now.world.average(gradients.values())
        for name, gradient in gradients.items():
            sources[name] = (sources[name] + config.step_size * gradient.sign()).clamp_(0, 1)
    return sources


def n_sources(now: StepPass, name: str) -> int:
    """Of a layer: one per component, and d."""
    return now.model.components[name].n_components + now.use_delta


def _start(now: StepPass, name: str, shape: Size, init: str) -> Tensor:
    n = n_sources(now, name)
    if init == "random":
        return now.noise.uniform(*shape, n)
    return now.importances[name].new_full((*shape, n), 1.0 if init == "ones" else 0.0)


def adversarial_masks(
    now: StepPass, route: Route, sources: Mapping[str, Tensor], importances: Mapping[str, Tensor]
) -> dict[str, LayerMask]:
    """m = g + (1 - g) s of the routed layers, differentiable in s, d and g.

    Args:
        now: The step.
        route: Layers that use components -> the flat positions where they do.
        sources: Layer -> [*positions or ones, C (+ 1 for d)].
        importances: Layer -> g [*positions, C].
    """
    masks: dict[str, LayerMask] = {}
    for name, rows in route.items():
        s = sources[name] if rows is None else at_rows(sources[name].expand(*now.positions, -1), rows)
        split = Sources(1 - s[..., :-1], s[..., -1:]) if now.use_delta else Sources(1 - s, None)
        masks[name] = source_mask(at_rows(importances[name], rows), split, rows)
    return masks


def loss_gradients(now: StepPass, route: Route, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of the reconstruction loss in the routed sources; causal importances are constants."""
    importances = {name: now.importances[name].detach() for name in route}
    with torch.enable_grad():
        leaves = {name: sources[name].detach().requires_grad_() for name in route}
        loss = now.distance(now.model.masked(now.batch, adversarial_masks(now, route, leaves, importances)))
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


class PersistentSources:
    """Sources that are kept from step to step and ascend at each."""

    def __init__(self, config: PersistentPgdConfig) -> None:
        self._config = config
        self._sources: dict[str, Tensor] = {}
        self._moments: dict[str, tuple[Tensor, Tensor, int]] = {}

    def leaves(self, now: StepPass) -> dict[str, Tensor]:
        """Layer -> sources, of which gradients are wanted; drawn at the first step.

        Raises:
            SpdToolsError: where batches have another shape than at the first step, or every position has its own
                sources and several processes train.
        """
        scope = self._config.scope.type
        if scope == "per_batch_per_position" and now.world.size > 1:
            raise SpdToolsError(
                f"{self._config.classname} with scope per_batch_per_position cannot be trained by several processes; "
                "choose broadcast_across_batch or one process."
            )
        shape = {
            "single_source": Size([1] * len(now.positions)),
            "broadcast_across_batch": Size([1, *now.positions[1:]]),
            "per_batch_per_position": now.positions,
        }[scope]
        for name in now.model.layers:
            if name not in self._sources:
                drawn = now.noise.uniform(*shape, n_sources(now, name))
                self._sources[name] = now.world.from_first(drawn)
        device = now.batch.device
        return {name: s.to(device).detach().requires_grad_() for name, s in self._sources.items()}

    def ascend(self, now: StepPass, gradients: Mapping[str, Tensor]) -> None:
        """One step uphill, clamped to [0, 1]. Layers without gradient stay."""
        now.world.average(gradients.values())
        optimizer = self._config.optimizer
        rate = optimizer.rate(now.step, now.steps)
        for name, gradient in gradients.items():
            direction = self._adam(name, gradient, optimizer) if isinstance(optimizer, AdamAscent) else gradient.sign()
            self._sources[name] = (self._sources[name].to(gradient.device) + rate * direction).clamp_(0, 1)

    def _adam(self, name: str, gradient: Tensor, config: AdamAscent) -> Tensor:
        zero = torch.zeros_like(gradient)
        first, second, n = self._moments.get(name, (zero, zero, 0))
        first = config.beta1 * first.to(gradient.device) + (1 - config.beta1) * gradient
        second = config.beta2 * second.to(gradient.device) + (1 - config.beta2) * gradient.square()
        self._moments[name] = (first, second, n + 1)
        unbiased = first / (1 - config.beta1 ** (n + 1))
        return unbiased / ((second / (1 - config.beta2 ** (n + 1))).sqrt() + config.eps)

    def state_dict(self) -> dict[str, Any]:
        """Sources and Adam's moments."""
        return {"sources": dict(self._sources), "moments": dict(self._moments)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self._sources, self._moments = dict(state["sources"]), dict(state["moments"])
