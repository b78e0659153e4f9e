"""Toy targets, which read feature vectors instead of tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from spd_tools.errors import SpdToolsError
from spd_tools.targets.build import Target, read_yaml_mapping
from spd_tools.targets.config import first_problem


class TmsConfig(BaseModel):
    """Sizes of a TMS. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    n_features: int = Field(gt=0)
    """Width of input and output."""
    n_hidden: int = Field(gt=0)
    """Width of the bottleneck."""
    n_hidden_layers: int = Field(default=0, ge=0)
    """Linear maps within the bottleneck."""


class ResidualMlpConfig(BaseModel):
    """Sizes of a ResidualMLP. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    n_features: int = Field(gt=0)
    """Width of input and output."""
    d_embed: int = Field(gt=0)
    """Width of the residual stream."""
    d_mlp: int = Field(gt=0)
    """Neurons of each layer."""
    n_layers: int = Field(gt=0)
    """MLPs."""
    act_fn_name: Literal["relu", "gelu"] = "relu"
    """Their activation function."""
    in_bias: bool = False
    """Bias of mlp_in."""
    out_bias: bool = False
    """Bias of mlp_out."""


class TMS(nn.Module):
    """Toy model of superposition: ReLU(linear2(hidden_layers(linear1(x)))) (Elhage et al. 2022, arXiv:2209.10652).

    linear2's weight is linear1's transposed while the target is trained, and a weight of its own afterwards.
    """

    def __init__(self, config: TmsConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.n_features, config.n_hidden, bias=False)
        self.hidden_layers = nn.ModuleList(
            nn.Linear(config.n_hidden, config.n_hidden, bias=False) for _ in range(config.n_hidden_layers)
        )
        self.linear2 = nn.Linear(config.n_hidden, config.n_features, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., n_features], as the result."""
        hidden = self.linear1(x)
        for layer in self.hidden_layers:
            hidden = layer(hidden)
        return F.relu(self.linear2(hidden))


class _Mlp(nn.Module):
    def __init__(self, config: ResidualMlpConfig) -> None:
        super().__init__()
        self.mlp_in = nn.Linear(config.d_embed, config.d_mlp, bias=config.in_bias)
        self.mlp_out = nn.Linear(config.d_mlp, config.d_embed, bias=config.out_bias)
        self._activation = F.relu if config.act_fn_name == "relu" else F.gelu

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp_out(self._activation(self.mlp_in(x)))


class ResidualMLP(nn.Module):
    """Features are embedded in a residual stream, MLPs add to it, and it is read out again."""

    def __init__(self, config: ResidualMlpConfig) -> None:
        super().__init__()
        scale = 1 / math.sqrt(config.d_embed)
        self.W_E = nn.Parameter(torch.randn(config.n_features, config.d_embed) * scale)
        self.W_U = nn.Parameter(torch.randn(config.d_embed, config.n_features) * scale)
        self.layers = nn.ModuleList(_Mlp(config) for _ in range(config.n_layers))

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., n_features], as the result."""
        residual = x @ self.W_E
        for layer in self.layers:
            residual = residual + layer(residual)
        return residual @ self.W_U


def build_toy_target(class_name: str, config_file: Path) -> Target:
    """Build the toy that a model_config.yaml describes.

    Args:
        class_name: Starts with TMS, ResidualMLP or ResidMLP.
        config_file: Its sizes.

    Raises:
        SpdToolsError: when the file is missing or does not describe the toy.
    """
    raw = read_yaml_mapping(config_file)
    with torch.random.fork_rng(devices=[]):  # initialisation must not move the caller's random numbers
        if class_name.startswith("TMS"):
            config = _parse(TmsConfig, raw, config_file)
            module, architecture = TMS(config), "TMS"
        else:
            config = _parse(ResidualMlpConfig, raw, config_file)
            module, architecture = ResidualMLP(config), "ResidualMLP"
    return Target(
        module=module.eval(),
        architecture=architecture,
        config=config.model_dump(),
        vocab_size=config.n_features,
        context=None,
        unembedding=None,
    )


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def _parse(kind: type[ConfigT], raw: dict[str, Any], source: Path) -> ConfigT:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise SpdToolsError(
            f"{source} does not describe the target model ({first_problem(error)}); correct that field."
        ) from error
