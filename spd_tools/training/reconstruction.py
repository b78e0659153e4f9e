"""Reconstruction losses: how far the output is from the target's when components are masked.

Each is a way to make masks (random, causal importances, none, adversarial) on a choice of modules (all at once, one at
a time, random ones at every position).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from torch import Size, Tensor

from spd_tools.training.adversary import PersistentSources, adversarial_masks, ascend, loss_gradients
from spd_tools.training.loss_configs import (
    PersistentPgdReconConfig,
    PersistentPgdReconSubsetConfig,
    PgdReconConfig,
    PgdReconLayerwiseConfig,
    PgdReconSubsetConfig,
    ReconConfig,
)
from spd_tools.training.losses import Loss, StatelessLoss, StepPass
from spd_tools.training.masks import at_rows, draw_sources, draw_subset, source_mask
from spd_tools.training.model import LayerMask

Route: TypeAlias = Mapping[str, Tensor | None]
"""Layers that use components -> the flat positions where they do (None: everywhere)."""
Modules = Literal["all", "layerwise", "subset"]


def routes(modules: Modules, now: StepPass) -> Iterator[Route]:
    """The choices of modules over whose losses is averaged."""
    layers = now.model.layers
    if modules == "all":
        yield dict.fromkeys(layers)
    elif modules == "layerwise":
        yield from ({name: None} for name in layers)
    else:
        yield draw_subset(now.noise, layers, now.positions)


class _Reconstruction(StatelessLoss, ABC):
    def __init__(self, modules: Modules) -> None:
        self.modules: Modules = modules

    @abstractmethod
    def masks(self, now: StepPass, route: Route) -> dict[str, LayerMask]:
        """Masks of the routed layers."""

    def n_samples(self, now: StepPass) -> int:
        """How often routes and masks are drawn."""
        return 1

    def pieces(self, now: StepPass) -> Iterator[Tensor]:
        """One per sample and choice of modules."""
        n = self.n_samples(now) * (len(now.model.layers) if self.modules == "layerwise" else 1)
        for _ in range(self.n_samples(now)):
            for route in routes(self.modules, now):
                yield now.distance(now.model.masked(now.batch, self.masks(now, route))) / n


class StochasticReconstruction(_Reconstruction):
    """Random masks; averaged over ``n_mask_samples``."""

    def n_samples(self, now: StepPass) -> int:
        """As configured."""
        return now.n_mask_samples

    def masks(self, now: StepPass, route: Route) -> dict[str, LayerMask]:
        """m = g + (1 - g) s with fresh s and d."""
        masks: dict[str, LayerMask] = {}
        for name, rows in route.items():
            # Nothing is drawn for positions that do not use the layer's components.
            shape = now.positions if rows is None else Size([len(rows)])
            sources = draw_sources(
                now.noise,
                {name: now.model.components[name].n_components},
                shape,
                sampling=now.sampling,
                with_delta=now.use_delta,
            )
            masks[name] = source_mask(at_rows(now.importances[name], rows), sources[name], rows)
        return masks


class CiMaskedReconstruction(_Reconstruction):
    """m = g, d = 0."""

    def n_samples(self, now: StepPass) -> int:
        """Only the choice of modules can be random."""
        return now.n_mask_samples if self.modules == "subset" else 1

    def masks(self, now: StepPass, route: Route) -> dict[str, LayerMask]:
        """The causal importances themselves."""
        return {name: LayerMask(at_rows(now.importances[name], rows), None, rows) for name, rows in route.items()}


class UnmaskedReconstruction(_Reconstruction):
    """m = 1, d = 0."""

    def masks(self, now: StepPass, route: Route) -> dict[str, LayerMask]:
        """Ones."""
        return {name: LayerMask(now.importances[name].new_ones(1), None, rows) for name, rows in route.items()}


class PgdReconstruction(_Reconstruction):
    """Masks (and d) that sign ascent on the loss finds from fresh starts (Madry et al. 2018, arXiv:1706.06083)."""

    def __init__(
        self, modules: Modules, config: PgdReconConfig | PgdReconLayerwiseConfig | PgdReconSubsetConfig
    ) -> None:
        super().__init__(modules)
        self._config = config

    def masks(self, now: StepPass, route: Route) -> dict[str, LayerMask]:
        """m = g + (1 - g) s with the worst s found; s is a constant of the gradient."""
        return adversarial_masks(now, route, ascend(now, route, self._config), now.importances)


class PersistentPgdReconstruction:
    """Masks (and d) whose s is kept and takes an ascent step at every training step.

    That step's gradient is a by-product of the loss's own backward pass.
    """

    def __init__(self, modules: Modules, config: PersistentPgdReconConfig | PersistentPgdReconSubsetConfig) -> None:
        self._modules: Modules = modules
        self._n_warmup_steps = config.n_warmup_steps
        self._sources = PersistentSources(config)

    def pieces(self, now: StepPass) -> Iterator[Tensor]:
        """One; going on after it has been differentiated takes the ascent step."""
        (route,) = routes(self._modules, now)
        for _ in range(self._n_warmup_steps):
            self._sources.ascend(now, loss_gradients(now, route, self._sources.leaves(now)))
        leaves = self._sources.leaves(now)
        masks = adversarial_masks(now, route, leaves, now.importances)
        yield now.distance(now.model.masked(now.batch, masks))
        self._sources.ascend(now, {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None})

    def state_dict(self) -> dict[str, Any]:
        """The sources."""
        return self._sources.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self._sources.load_state_dict(state)


_STOCHASTIC: dict[str, Modules] = {
    "StochasticReconLoss": "all",
    "StochasticReconLayerwiseLoss": "layerwise",
    "StochasticReconSubsetLoss": "subset",
}
_CI_MASKED: dict[str, Modules] = {
    "CIMaskedReconLoss": "all",
    "CIMaskedReconLayerwiseLoss": "layerwise",
    "CIMaskedReconSubsetLoss": "subset",
}


def build_reconstruction(config: ReconConfig) -> Loss:
    """The reconstruction loss that a configuration describes."""
    name = config.classname
    if isinstance(config, PersistentPgdReconConfig):
        return PersistentPgdReconstruction("all", config)
    if isinstance(config, PersistentPgdReconSubsetConfig):
        return PersistentPgdReconstruction("subset", config)
    if isinstance(config, PgdReconConfig):
        return PgdReconstruction("all", config)
    if isinstance(config, PgdReconLayerwiseConfig):
        return PgdReconstruction("layerwise", config)
    if isinstance(config, PgdReconSubsetConfig):
        return PgdReconstruction("subset", config)
    if name in _STOCHASTIC:
        return StochasticReconstruction(_STOCHASTIC[name])
    if name in _CI_MASKED:
        return CiMaskedReconstruction(_CI_MASKED[name])
    return UnmaskedReconstruction("all")
