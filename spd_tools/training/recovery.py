"""Whether the features of a toy ended in components of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spd_tools.targets.toys import TMS, ResidualMLP
from spd_tools.training.model import ComponentModel

PROBE = 0.75
"""Value of the one active feature of a probe."""
FIRES = 0.1
"""Causal importance above which a component takes part in a probe."""


@dataclass(frozen=True)
class TrueDirections:
    """One rank-one matrix per feature that a layer should consist of, beside the layer's components."""

    read: Tensor
    """[n_features, r] in the coordinates of features where the layer reads those."""
    write: Tensor
    """[n_features, w]"""
    component_read: Tensor
    """[C, r]"""
    component_write: Tensor
    """[C, w]"""

    def cosines(self) -> Tensor:
        """[n_features, C]: cosine between the matrices, read times write."""
        normed = torch.nn.functional.normalize
        reads = normed(self.read, dim=1) @ normed(self.component_read, dim=1).T
        return reads * (normed(self.write, dim=1) @ normed(self.component_write, dim=1).T)


@torch.no_grad()
def true_directions(model: ComponentModel) -> dict[str, TrueDirections]:
    """Layer -> directions, for those layers of a toy in which every feature has a matrix of its own.

    TMS: linear1 and linear2. ResidualMLP: every mlp_in, whose components are seen through the embedding.
    """
    target, found = model.target.module, {}
    for name, layer in model.components.items():
        module = layer.module
        weight = module.weight
        if not isinstance(weight, Tensor):
            continue
        v, u = layer.V.detach().T, layer.U.detach()
        if isinstance(target, TMS) and name in ("linear1", "linear2"):
            eye = torch.eye(weight.shape[1 if name == "linear1" else 0], device=weight.device)
            read, write = (eye, weight.T) if name == "linear1" else (weight, eye)
            found[name] = TrueDirections(read, write.detach(), v, u)
        elif isinstance(target, ResidualMLP) and name.endswith("mlp_in"):
            embed = target.W_E
            eye = torch.eye(embed.shape[0], device=embed.device)
            found[name] = TrueDirections(eye, embed @ weight.T, v @ embed.T, u)
    return found


@torch.no_grad()
def probe_importances(model: ComponentModel) -> dict[str, Tensor]:
    """Layer -> causal importances [n_features, C] of inputs in which one feature alone is active."""
    n_features = model.target.vocab_size
    device = next(iter(model.components.values())).V.device
    clean = model.clean(torch.eye(n_features, device=device) * PROBE)
    return {name: model.lower(x) for name, x in model.pre_ci(clean.inputs).items()}


def recovery(model: ComponentModel) -> dict[str, float]:
    """Per layer: mean over features of the greatest cosine, and the share of features that are recovered.

    A feature is recovered in a layer when, on its probe, exactly one component fires there, it is the one with the
    greatest cosine to the feature's direction, and no other feature has the same one.
    """
    probes, found = probe_importances(model), {}
    for name, directions in true_directions(model).items():
        cosines = directions.cosines()
        best, component = cosines.max(dim=1)
        fires = probes[name] > FIRES
        alone = (fires.sum(1) == 1) & fires.gather(1, component[:, None]).squeeze(1)
        shared = (component[:, None] == component[None, :]).sum(1) > 1
        found[f"recovery/mean_max_cosine/{name}"] = float(best.mean())
        found[f"recovery/recovered/{name}"] = float((alone & ~shared).float().mean())
    return found
