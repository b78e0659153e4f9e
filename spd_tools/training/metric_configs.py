"""What is evaluated beside the losses: entries of eval_metric_configs under their public names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.targets.config import first_problem
from spd_tools.training.loss_configs import CLASSES as LOSSES
from spd_tools.training.loss_configs import LossConfig, parse_loss


class _Metric(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class CeAndKlConfig(_Metric):
    """Cross-entropy and KL under several masks; language models only."""

    classname: Literal["CEandKLLosses"] = "CEandKLLosses"
    rounding_threshold: float = Field(default=0.0, ge=0, lt=1)
    """Rounded masks are 1 where the causal importance is above this."""


class CiL0Config(_Metric):
    """Components per position whose causal importance is above the threshold, by layer."""

    classname: Literal["CI_L0"] = "CI_L0"
    groups: dict[str, list[str]] | None = None
    """Sums over layers: name -> fnmatch patterns over the decomposed modules."""


class CiHistogramsConfig(_Metric):
    """Figure: histograms of causal importances."""

    classname: Literal["CIHistograms"] = "CIHistograms"
    n_batches_accum: int | None = Field(default=None, gt=0)
    """Batches that go into it; None: all of the evaluation."""


class CiMeanPerComponentConfig(_Metric):
    """Figure: mean causal importance of every component, sorted."""

    classname: Literal["CIMeanPerComponent"] = "CIMeanPerComponent"


class PermutedCiPlotsConfig(_Metric):
    """Figure: causal importances of single features, permuted towards a diagonal; toys only."""

    classname: Literal["PermutedCIPlots"] = "PermutedCIPlots"
    identity_patterns: list[str] | None = None
    """Layers of which a diagonal is expected; None, as the other: all layers."""
    dense_patterns: list[str] | None = None
    """Layers whose components are sorted by their mean instead."""


class UvPlotsConfig(_Metric):
    """Figure: V and U with components in the order of the permuted causal importances; toys only."""

    classname: Literal["UVPlots"] = "UVPlots"
    identity_patterns: list[str] | None = None
    """As in PermutedCIPlots."""
    dense_patterns: list[str] | None = None
    """As in PermutedCIPlots."""


EvalOnlyConfig: TypeAlias = (
    CeAndKlConfig | CiL0Config | CiHistogramsConfig | CiMeanPerComponentConfig | PermutedCiPlotsConfig | UvPlotsConfig
)
EvalMetricConfig: TypeAlias = EvalOnlyConfig | LossConfig

CLASSES: dict[str, type[EvalOnlyConfig]] = {
    kind.model_fields["classname"].default: kind for kind in EvalOnlyConfig.__args__
}
"""Public name -> configuration, of what is no loss."""
FIGURES = ("CIHistograms", "CIMeanPerComponent", "PermutedCIPlots", "UVPlots")
"""Drawn at the slow evaluations."""
_TOYS_ONLY = ("PermutedCIPlots", "UVPlots")
_LANGUAGE_ONLY = ("CEandKLLosses",)


def default_eval_metrics(*, toy: bool) -> list[EvalMetricConfig]:
    """Everything that there is for a task."""
    left_out = _LANGUAGE_ONLY if toy else _TOYS_ONLY
    return [kind() for name, kind in CLASSES.items() if name not in left_out]


def parse_eval_metrics(entries: Sequence[Any], source: str, *, toy: bool) -> tuple[list[EvalMetricConfig], list[str]]:
    """The entries that can be evaluated, and the names of those that cannot.

    Raises:
        SpdToolsError: for an entry without a classname, or a value that is not supported.
    """
    known: list[EvalMetricConfig] = []
    skipped: list[str] = []
    left_out = _LANGUAGE_ONLY if toy else _TOYS_ONLY
    for entry in entries:
        name = entry.get("classname") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise SpdToolsError(f"{source} has an entry of eval_metric_configs without a classname; correct it.")
        if name in LOSSES:
            known.append(parse_loss(entry, source))
        elif name not in CLASSES or name in left_out:
            skipped.append(name)
        else:
            try:
                known.append(TypeAdapter[EvalOnlyConfig](CLASSES[name]).validate_python(entry))
            except ValidationError as error:
                raise SpdToolsError(
                    f"{source} asks for a {name} that is not supported ({first_problem(error)}); correct that field."
                ) from error
    return known, skipped
