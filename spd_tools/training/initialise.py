"""Values that training starts from."""

from __future__ import annotations

import math

import torch
from torch import nn

from spd_tools.decompositions.spd.ci_functions import CiFunction
from spd_tools.decompositions.spd.components import Components
from spd_tools.training.model import ComponentModel


@torch.no_grad()
def initialise(model: ComponentModel, seed: int) -> None:
    """Draw V, U and the causal-importance function.

    V and U are such that inputs of unit variance give inner activations and outputs of unit variance. Matrices of the
    causal-importance function keep the variance of what they read; its biases are 0 and its norms 1.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in model.components.values():
        _draw_components(layer, generator)
    _draw_ci_function(model.ci_function, generator)


def _draw_components(layer: Components, generator: torch.Generator) -> None:
    # An embedding's V has one row per token; a token reads just one of them.
    read_std = 1.0 if layer.is_embedding else 1 / math.sqrt(layer.V.shape[0])
    layer.V.normal_(0, read_std, generator=generator)
    layer.U.normal_(0, 1 / math.sqrt(layer.n_components), generator=generator)


def _draw_ci_function(function: CiFunction, generator: torch.Generator) -> None:
    matrices = {id(module.weight): True for module in function.modules() if isinstance(module, nn.Linear)}
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
