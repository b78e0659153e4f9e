"""The toy targets themselves: trained here, in seconds to minutes, and written as runs of their own."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
import yaml
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from spd_tools.decompositions.spd.files import CONFIG_NAME, TARGET_CONFIG_NAME
from spd_tools.files import atomic_file, write_bytes
from spd_tools.targets.toys import TMS, ResidualMLP, ResidualMlpConfig, TmsConfig
from spd_tools.training.data import FeatureBatches
from spd_tools.training.schedules import Schedule


class _Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    """Of initial values and data."""
    steps: int = Field(gt=0)
    """Of AdamW."""
    batch_size: int = Field(gt=0)
    """Samples per step."""
    lr_schedule: Schedule
    """Of AdamW."""
    feature_probability: float
    """Of each feature being active."""


class TmsRecipe(_Recipe):
    """A TMS that reconstructs its input."""

    kind: Literal["TMS"] = "TMS"
    model: TmsConfig
    """Sizes; layers within the bottleneck are identities and stay so."""


class ResidualMlpRecipe(_Recipe):
    """A ResidualMLP that computes x + act(x) of every feature."""

    kind: Literal["ResidualMLP"] = "ResidualMLP"
    model: ResidualMlpConfig
    """Sizes; embedding and unembedding are random unit vectors, transposes of each other, and stay so."""


ToyRecipe: TypeAlias = TmsRecipe | ResidualMlpRecipe


def train_toy(recipe: ToyRecipe) -> nn.Module:
    """Train a toy target."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if isinstance(recipe, TmsRecipe):
            return _train_tms(recipe)
        return _train_residual_mlp(recipe)


def _train_tms(recipe: TmsRecipe) -> TMS:
    model = TMS(recipe.model)
    for layer in model.hidden_layers:
        assert isinstance(layer, nn.Linear)
        nn.init.eye_(layer.weight).requires_grad_(False)
    nn.init.zeros_(model.linear2.bias)
    model.linear2.weight.requires_grad_(False)

    def loss(x: Tensor) -> Tensor:
        tied = {"linear2.weight": model.linear1.weight.T}
        return F.mse_loss(torch.func.functional_call(model, tied, (x,)), x)

    _fit(recipe, [model.linear1.weight, model.linear2.bias], loss, low=0.0)
    with torch.no_grad():
        model.linear2.weight.copy_(model.linear1.weight.T)
    return model


def _train_residual_mlp(recipe: ResidualMlpRecipe) -> ResidualMLP:
    model = ResidualMLP(recipe.model)
    with torch.no_grad():
        model.W_E.copy_(F.normalize(model.W_E, dim=1))
        model.W_U.copy_(model.W_E.T)
    act = F.relu if recipe.model.act_fn_name == "relu" else F.gelu
    _fit(recipe, list(model.layers.parameters()), lambda x: F.mse_loss(model(x), x + act(x)), low=-1.0)
    return model


def _fit(recipe: ToyRecipe, parameters: Sequence[Tensor], loss: Any, *, low: float) -> None:
    batches = FeatureBatches(
        n_features=recipe.model.n_features,
        feature_probability=recipe.feature_probability,
        generation="at_least_zero_active",
        low=low,
        batch_size=recipe.batch_size,
        eval_batch_size=recipe.batch_size,
        seed=recipe.seed,
    )
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0, fused=True)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_schedule.at(step, recipe.steps)
        optimizer.zero_grad(set_to_none=True)
        loss(batches.train(step)).backward()
        optimizer.step()


def toy_target_run(recipe: ToyRecipe, folder: Path) -> Path:
    """A toy target's run in ``folder``: the one that is there, else trained now.

    Returns:
        The folder; its name contains the hash of the recipe, so another recipe is another run.
    """
    description = recipe.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:8]
    run = folder / f"{recipe.kind.lower()}-{digest}"
    checkpoint = run / "checkpoints" / f"model_step_{recipe.steps}.pt"
    if checkpoint.is_file():
        return run
    model = train_toy(recipe)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(run / TARGET_CONFIG_NAME, yaml.safe_dump(recipe.model.model_dump(mode="json")).encode())
    write_bytes(run / CONFIG_NAME, yaml.safe_dump(description).encode())
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    with atomic_file(checkpoint) as file:  # last: it says that the run is whole
        file.write(buffer.getbuffer())
    return run
