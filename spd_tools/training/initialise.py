"""Values that training starts from."""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_tools.decompositions.spd.ci_functions import CiFunction
from spd_tools.decompositions.spd.components import Components
from spd_tools.training.model import ComponentModel

_RIDGE = 0.01
"""Keeps U small where C is close to d_in and V V^T nearly singular."""
_FIRST_CI = 1.0
_FIRST_SPREAD = 0.3
"""Causal importances start near 1 everywhere: all components take part, none is dead, and none is ahead by chance."""
_OUTPUTS = re.compile(r"(^|\.)(layers|_readers\.[^.]+|_output_head)$")
"""Modules that give causal importances: an MLP, whose last layer it is, or one map."""


@torch.no_grad()
def initialise(model: ComponentModel, seed: int) -> None:
    """Draw V and the causal-importance function, and fit U.

    The columns of V are random unit vectors. U is the ridge regression of the target's weights on them: components
    write what the target makes of the direction that they read, and together they are close to the target's weights
    (where C is not below d_in). Matrices of the causal-importance function keep the variance of what they read; its
    outputs are near 1 at first, its other biases 0 and its norms 1.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, layer in model.components.items():
        _draw_components(layer, model.weight(name).float(), generator)
    _draw_ci_function(model.ci_function, generator)


def _draw_components(layer: Components, weight: Tensor, generator: torch.Generator) -> None:
    """weight: [d_in, d_out]."""
    d_in, n_components = layer.V.shape
    v = F.normalize(torch.randn(d_in, n_components, generator=generator), dim=0)
    ridge = _RIDGE * max(1.0, n_components / d_in)
    if n_components < d_in:
        u = torch.linalg.solve(v.T @ v + ridge * torch.eye(n_components), v.T @ weight)
    else:
        u = v.T @ torch.linalg.solve(v @ v.T + ridge * torch.eye(d_in), weight)
    # A token of an embedding reads one row of V: entries of unit size give inner activations of unit size.
    scale = math.sqrt(d_in) if layer.is_embedding else 1.0
    layer.V.copy_(v * scale)
    layer.U.copy_(u / scale)


def _draw_ci_function(function: CiFunction, generator: torch.Generator) -> None:
    matrices = {id(module.weight) for module in function.modules() if isinstance(module, nn.Linear)}
    for name, parameter in function.named_parameters():
        kind = name.rpartition(".")[2]
        if kind == "b":
            parameter.zero_()
        elif kind == "W":  # [in, out], or [C, in, out] for one map per component
            parameter.normal_(0, 1 / math.sqrt(parameter.shape[-2]), generator=generator)
        elif id(parameter) in matrices:  # [out, in]
            parameter.normal_(0, 1 / math.sqrt(parameter.shape[-1]), generator=generator)
        else:
            parameter.fill_(1.0)
    for name, module in function.named_modules():
        if _OUTPUTS.search(name):
            last = module[-1] if isinstance(module, nn.Sequential) else module
            weight, bias = last.W, last.b
            assert isinstance(weight, Tensor)
            assert isinstance(bias, Tensor)
            weight.mul_(_FIRST_SPREAD)
            bias.fill_(_FIRST_CI)
