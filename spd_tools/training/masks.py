"""Masks of a training step: m = g + (1 - g) s with causal importances g, and the share d of what components leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spd_tools.training.model import LayerMask, take_rows
from spd_tools.training.noise import Noise

Sampling = Literal["continuous", "binomial"]


@dataclass(frozen=True)
class Sources:
    """What turns causal importances of one layer into masks."""

    rest: Tensor
    """1 - s: [*positions, C] or anything that broadcasts to it."""
    delta: Tensor | None
    """d: [*positions, 1] or anything that broadcasts to it; None: 0."""


def draw_sources(
    noise: Noise, layers: Mapping[str, int], shape: torch.Size, *, sampling: Sampling, with_delta: bool
) -> dict[str, Sources]:
    """Random sources of every layer.

    Args:
        noise: Where the numbers come from.
        layers: Layer -> C.
        shape: Of the positions.
        sampling: "continuous": s ~ U(0, 1); "binomial": s is 0 or 1 with equal chances. d ~ U(0, 1) either way. What is
            drawn is 1 - s, which is distributed as s and saves a pass over memory.
        with_delta: Whether what the components leave over has a mask; without, d is 0.
    """
    draw = noise.uniform if sampling == "continuous" else noise.fair_coins
    return {
        name: Sources(draw(*shape, n_components), noise.uniform(*shape, 1) if with_delta else None)
        for name, n_components in layers.items()
    }


def draw_subset(noise: Noise, layers: Mapping[str, int], shape: torch.Size) -> dict[str, Tensor]:
    """Layer -> flat positions [rows] that use its components: k of the M layers at each, k ~ U{1..M}.

    Layers that no position uses are left out.
    """
    n_layers = len(layers)
    n_positions = shape.numel()
    k = (noise.uniform(n_positions, 1) * n_layers).floor_().clamp_max_(n_layers - 1)
    # The layers of the k+1 smallest of M independent numbers are a uniform choice of k+1 layers.
    numbers = noise.uniform(n_positions, n_layers)
    ranks = numbers.argsort(dim=1, stable=True).argsort(dim=1)
    routed = (ranks <= k).T
    rows = {name: routed[i].nonzero().squeeze(1) for i, name in enumerate(layers)}
    return {name: chosen for name, chosen in rows.items() if len(chosen)}


def source_mask(importance: Tensor, sources: Sources, rows: Tensor | None = None) -> LayerMask:
    """m = g + (1 - g) s, differentiable in all of them.

    Args:
        importance: g [*positions, C], or [rows, C] of the positions that use components.
        sources: s and d of the same positions.
        rows: Flat positions that use components; None: all.
    """
    # m - d = (1 - d) - (1 - g) (1 - s)
    delta = sources.delta
    whole = importance.new_ones(1) if delta is None else 1 - delta
    return LayerMask(torch.addcmul(whole, importance - 1, sources.rest), delta, rows)


def at_rows(x: Tensor, rows: Tensor | None) -> Tensor:
    """x [*positions, n] at flat positions: [rows, n]; what is shared by all positions stays [1, n]."""
    if rows is None:
        return x
    flat = x.flatten(0, -2)
    return flat if flat.shape[0] == 1 else take_rows(flat, rows)
