"""What is minimised: entries of loss_metric_configs under their public names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from spd_tools.errors import SpdToolsError
from spd_tools.suggest import did_you_mean
from spd_tools.targets.config import first_problem
from spd_tools.training.schedules import Schedule


class _Loss(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    coeff: float | None = Field(default=None, ge=0)
    """Weight in the sum; needed wherever the entry is minimised."""


class FaithfulnessConfig(_Loss):
    """Mean square of what the components leave of the weights."""

    classname: Literal["FaithfulnessLoss"]


class ImportanceMinimalityConfig(_Loss):
    """An L_p penalty on causal importances."""

    classname: Literal["ImportanceMinimalityLoss"]
    pnorm: float = Field(gt=0)
    """p at the start."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the frequency term log2(1 + sum over positions)."""
    p_anneal_start_frac: float = Field(default=1.0, ge=0, le=1)
    """Share of the steps after which p begins to move."""
    p_anneal_final_p: float | None = Field(default=None, gt=0)
    """Where it moves to; None: it stays."""
    p_anneal_end_frac: float = Field(default=1.0, ge=0, le=1)
    """Share of the steps after which it is there."""
    eps: float = Field(default=1e-12, gt=0)
    """Keeps the gradient finite at 0."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.p_anneal_end_frac < self.p_anneal_start_frac:
            raise ValueError("p_anneal_end_frac lies before p_anneal_start_frac")
        return self


class Routing(BaseModel):
    """Which modules use components at a position."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Literal["uniform_k_subset"] = "uniform_k_subset"
    """k modules, k uniform in 1..M, drawn anew for each position."""


class _Subset(_Loss):
    routing: Routing = Routing()
    """Which modules use components at a position."""


class StochasticReconConfig(_Loss):
    """Random masks on all modules at once."""

    classname: Literal["StochasticReconLoss"]


class StochasticReconLayerwiseConfig(_Loss):
    """Random masks on one module at a time."""

    classname: Literal["StochasticReconLayerwiseLoss"]


class StochasticReconSubsetConfig(_Subset):
    """Random masks on random modules."""

    classname: Literal["StochasticReconSubsetLoss"]


class CiMaskedReconConfig(_Loss):
    """Causal importances as masks, on all modules at once."""

    classname: Literal["CIMaskedReconLoss"]


class CiMaskedReconLayerwiseConfig(_Loss):
    """Causal importances as masks, one module at a time."""

    classname: Literal["CIMaskedReconLayerwiseLoss"]


class CiMaskedReconSubsetConfig(_Subset):
    """Causal importances as masks, on random modules."""

    classname: Literal["CIMaskedReconSubsetLoss"]


class UnmaskedReconConfig(_Loss):
    """All components, without what they leave over."""

    classname: Literal["UnmaskedReconLoss"]


class _Pgd(_Loss):
    init: Literal["random", "ones", "zeroes"] = "random"
    """Where the ascent begins."""
    step_size: float = Field(gt=0)
    """What one step adds to or takes from every s."""
    n_steps: int = Field(ge=0)
    """Steps of the ascent."""
    mask_scope: Literal["unique_per_datapoint", "shared_across_batch"] = "unique_per_datapoint"
    """Whether every position has masks of its own."""


class PgdReconConfig(_Pgd):
    """The worst masks that sign ascent finds, on all modules at once."""

    classname: Literal["PGDReconLoss"]


class PgdReconLayerwiseConfig(_Pgd):
    """The worst masks that sign ascent finds, one module at a time."""

    classname: Literal["PGDReconLayerwiseLoss"]


class PgdReconSubsetConfig(_Pgd):
    """The worst masks that sign ascent finds, on random modules."""

    classname: Literal["PGDReconSubsetLoss"]
    routing: Routing = Routing()
    """Which modules use components at a position."""


class _Ascent(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    step_size: float | None = Field(default=None, gt=0)
    """A constant rate."""
    lr_schedule: Schedule | None = None
    """Or one that changes over training."""

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if (self.step_size is None) == (self.lr_schedule is None):
            raise ValueError("give either step_size or lr_schedule")
        return self

    def rate(self, step: int, steps: int) -> float:
        """Rate of a training step."""
        return self.lr_schedule.at(step, steps) if self.lr_schedule is not None else (self.step_size or 0.0)


class SignAscent(_Ascent):
    """s += rate * sign(gradient)."""

    type: Literal["sign"]


class AdamAscent(_Ascent):
    """Adam, uphill."""

    type: Literal["adam"]
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)


class SourceScope(BaseModel):
    """What shares one s."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Literal["single_source", "broadcast_across_batch", "per_batch_per_position"]
    """All positions; equal places of all rows; nothing."""


class _PersistentPgd(_Loss):
    optimizer: Annotated[SignAscent | AdamAscent, Field(discriminator="type")]
    """One step of it is taken at every training step."""
    scope: SourceScope
    """What shares one s."""
    n_warmup_steps: int = Field(default=0, ge=0)
    """Further ascent steps on every batch, before the one that training takes anyway."""
    use_sigmoid_parameterization: Literal[False] = False
    """Only masks clamped to [0, 1] are supported."""


class PersistentPgdReconConfig(_PersistentPgd):
    """Masks that ascend from step to step, on all modules at once."""

    classname: Literal["PersistentPGDReconLoss"]


class PersistentPgdReconSubsetConfig(_PersistentPgd):
    """Masks that ascend from step to step, on random modules."""

    classname: Literal["PersistentPGDReconSubsetLoss"]
    routing: Routing = Routing()
    """Which modules use components at a position."""


PgdConfig: TypeAlias = PgdReconConfig | PgdReconLayerwiseConfig | PgdReconSubsetConfig
PersistentPgdConfig: TypeAlias = PersistentPgdReconConfig | PersistentPgdReconSubsetConfig
ReconConfig: TypeAlias = (
    StochasticReconConfig
    | StochasticReconLayerwiseConfig
    | StochasticReconSubsetConfig
    | CiMaskedReconConfig
    | CiMaskedReconLayerwiseConfig
    | CiMaskedReconSubsetConfig
    | UnmaskedReconConfig
    | PgdConfig
    | PersistentPgdConfig
)
LossConfig: TypeAlias = FaithfulnessConfig | ImportanceMinimalityConfig | ReconConfig

CLASSES: dict[str, type[LossConfig]] = {
    kind.model_fields["classname"].annotation.__args__[0]: kind  # pyright: ignore[reportOptionalMemberAccess]
    for kind in LossConfig.__args__
}
"""Public name -> configuration."""


def parse_losses(entries: Sequence[Any], source: str) -> list[LossConfig]:
    """Check the entries of loss_metric_configs.

    Raises:
        SpdToolsError: for an unknown loss, a loss without coefficient or named twice, or an unsupported field value.
    """
    losses: list[LossConfig] = []
    for entry in entries:
        loss = parse_loss(entry, source)
        if loss.coeff is None:
            raise SpdToolsError(f"{source} minimises {loss.classname} without a coeff; give it one.")
        if any(other.classname == loss.classname for other in losses):
            raise SpdToolsError(f"{source} minimises {loss.classname} twice; leave one entry.")
        losses.append(loss)
    return losses


def parse_loss(entry: Any, source: str) -> LossConfig:
    """Check one entry.

    Raises:
        SpdToolsError: for an unknown loss or an unsupported field value.
    """
    name = entry.get("classname") if isinstance(entry, dict) else None
    if name not in CLASSES:
        raise SpdToolsError(
            f"{source} asks for the loss {name!r}, which is not supported; {did_you_mean(str(name), CLASSES, 'losses')}"
        )
    try:
        return TypeAdapter[LossConfig](CLASSES[name]).validate_python(entry)
    except ValidationError as error:
        raise SpdToolsError(
            f"{source} asks for a {name} that is not supported ({first_problem(error)}); correct that field."
        ) from error
