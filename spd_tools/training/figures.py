"""Figures of a training, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from spd_tools.files import write_bytes
from spd_tools.training.metric_configs import (
    CiHistogramsConfig,
    CiMeanPerComponentConfig,
    EvalMetricConfig,
    PermutedCiPlotsConfig,
    UvPlotsConfig,
)
from spd_tools.training.model import ComponentModel
from spd_tools.training.recovery import probe_importances

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4


def draw_figures(
    model: ComponentModel,
    metrics: Sequence[EvalMetricConfig],
    importances: Mapping[str, Tensor],
    n_batches: int,
    folder: Path,
    step: int,
) -> list[Path]:
    """Draw what the configuration asks for.

    Args:
        model: As it is now.
        metrics: Entries of eval_metric_configs.
        importances: Layer -> causal importances [positions, C] of the evaluation batches, in their order.
        n_batches: How many batches these are.
        folder: Where the files go: <name>_<step>.png.
        step: Steps that are done.

    Returns:
        The files.

    Raises:
        SpdToolsError: when they cannot be written.
    """
    drawn: dict[str, Figure] = {}
    for metric in metrics:
        if isinstance(metric, CiHistogramsConfig):
            share = min(1.0, (metric.n_batches_accum or n_batches) / n_batches)
            drawn[metric.classname] = ci_histograms(
                {name: values[: round(len(values) * share)] for name, values in importances.items()}
            )
        elif isinstance(metric, CiMeanPerComponentConfig):
            drawn[metric.classname] = ci_mean_per_component(importances)
        elif isinstance(metric, PermutedCiPlotsConfig | UvPlotsConfig):
            probes = probe_importances(model)
            order = {name: _order(name, values, metric.dense_patterns) for name, values in probes.items()}
            if isinstance(metric, PermutedCiPlotsConfig):
                drawn[metric.classname] = permuted_ci(probes, order)
            else:
                drawn[metric.classname] = uv_plots(model, order)
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(figure, folder / f"{name}_{step}.png") for name, figure in drawn.items()]


def component_order(importances: Tensor) -> Tensor:
    """[C]: an order of components under which [n_features, C] comes close to a diagonal.

    Components come by the feature that they are most important for, of one feature the most important first; those
    that are important for none come last.
    """
    strongest, feature = importances.max(dim=0)
    idle = strongest <= 0
    keys = feature.double() + 0.5 * (1 - strongest.double().clamp(0, 1)) + idle * float(importances.shape[0])
    return keys.argsort(stable=True)


def _order(name: str, importances: Tensor, dense_patterns: Sequence[str] | None) -> Tensor:
    if any(fnmatchcase(name, pattern) for pattern in dense_patterns or ()):
        return importances.mean(0).argsort(descending=True, stable=True)
    return component_order(importances)


def ci_histograms(importances: Mapping[str, Tensor]) -> Figure:
    """A histogram of all causal importances per layer, with a logarithmic axis of counts."""
    figure, axes = _grid(importances)
    for axis, (name, values) in zip(axes, importances.items(), strict=False):
        axis.hist(values.flatten().numpy(), bins=np.linspace(0, 1, 51), log=True)
        axis.set(title=name, xlabel="causal importance", ylabel="count")
    return figure


def ci_mean_per_component(importances: Mapping[str, Tensor]) -> Figure:
    """Mean causal importance of every component, sorted, on a logarithmic axis."""
    figure, axes = _grid(importances)
    for axis, (name, values) in zip(axes, importances.items(), strict=False):
        means = values.mean(0).sort(descending=True).values.numpy()
        axis.plot(np.arange(len(means)), np.where(means > 0, means, np.nan), ".", markersize=3)
        axis.set(title=name, xlabel="component, sorted", ylabel="mean causal importance", xlim=(0, len(means)))
        if (means > 0).any():
            axis.set_yscale("log")
    return figure


def permuted_ci(probes: Mapping[str, Tensor], order: Mapping[str, Tensor]) -> Figure:
    """Causal importances [features, components] of inputs with one active feature, components in a given order."""
    figure, axes = _grid(probes)
    for axis, (name, values) in zip(axes, probes.items(), strict=False):
        image = axis.imshow(values[:, order[name]].cpu().numpy(), vmin=0, vmax=1, aspect="auto", cmap="Reds")
        axis.set(title=name, xlabel="component", ylabel="active feature")
        figure.colorbar(image, ax=axis)
    return figure


def uv_plots(model: ComponentModel, order: Mapping[str, Tensor]) -> Figure:
    """V [d_in, C] and U [C, d_out] of every layer, components in a given order."""
    matrices: dict[str, Tensor] = {}
    for name, layer in model.components.items():
        matrices[f"{name} V"] = layer.V.detach()[:, order[name]]
        matrices[f"{name} U"] = layer.U.detach()[order[name]]
    figure, axes = _grid(matrices)
    for axis, (name, values) in zip(axes, matrices.items(), strict=False):
        limit = float(values.abs().max()) or 1.0
        image = axis.imshow(values.cpu().numpy(), vmin=-limit, vmax=limit, aspect="auto", cmap="RdBu")
        axis.set(title=name)
        figure.colorbar(image, ax=axis)
    return figure


def _grid(panels: Mapping[str, Any]) -> tuple[Figure, list[Any]]:
    # Not pyplot: it keeps global state and looks for a display.
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure, axes


def _write(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
    return path
