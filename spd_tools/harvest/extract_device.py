"""The same as extract.py where the activations are (a GPU): only firings, row sums and windows come to the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spd_tools.decompositions.base import LayerParts
from spd_tools.harvest.extract import not_finite
from spd_tools.harvest.firings import FiringBlock, RowTotals

_AT_ONCE = 1 << 22
"""Numbers gathered at a time: bounds the memory of reading firings and windows."""


@dataclass(frozen=True)
class DeviceWindows:
    """Windows gathered on the device."""

    parts: LayerParts
    included: Tensor

    def fill(
        self,
        out: NDArray[np.float32],
        slots: NDArray[np.int64],
        components: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> None:
        """See WindowSource."""
        width = out.shape[2] // 2
        device, seq = self.included.device, self.included.shape[1]
        shifts = torch.arange(-width, width + 1, device=device)
        step = max(1, _AT_ONCE // (len(shifts) * _width(self.parts)))
        for start in range(0, len(slots), step):
            piece = slice(start, start + step)
            component = torch.from_numpy(components[piece]).to(device)
            position = torch.from_numpy(positions[piece]).to(device)
            within = position[:, None] % seq + shifts
            at = position[:, None] + shifts
            inside = (within >= 0) & (within < seq)
            at = torch.where(inside, at, position[:, None])
            inside &= self.included.flatten()[at]
            for kind, values in enumerate(_values(self.parts, at, component[:, None].expand_as(at))):
                window = torch.where(inside, values, torch.nan)
                out[slots[piece], kind] = window.cpu().numpy()


def extract_block_on_device(parts: LayerParts, start: int, threshold: float, included: Tensor) -> FiringBlock:
    """Firings of one layer; the counterpart of ``extract.extract_block``.

    Args:
        parts: the layer's activations, on any device.
        start: flat index of its first component.
        threshold: firing is gating activation > threshold.
        included: [rows, seq] on the same device.

    Raises:
        SpdToolsError: when an activation at a firing is NaN or infinite.
    """
    n = parts.gating.shape[-1]
    gating = parts.gating.flatten(0, 1)
    fires = ~(gating <= threshold) & included.flatten()[:, None]  # true for NaN as well
    component, position = fires.T.nonzero(as_tuple=True)  # by component, then position
    raw = gating[position, component]
    step = max(1, _AT_ONCE // _width(parts))
    pieces = [_values(parts, position[i : i + step], component[i : i + step]) for i in range(0, len(position), step)]
    values = torch.cat([torch.stack(piece) for piece in pieces], 1) if pieces else raw.new_zeros(_n_kinds(parts), 0)
    values = values.float()
    if not (raw.isfinite().all() and values.isfinite().all()):
        raise not_finite(parts.layer)
    counts = torch.bincount(component, minlength=n)
    totals: dict[int, RowTotals] = {}
    if not (threshold == 0 and parts.low == 0):
        totals[0] = _row_totals(parts.gating.clamp(parts.low, parts.high), None, included)
    if parts.inputs is not None:
        totals[1] = _row_totals(parts.inputs, parts.weights, included)
    elif parts.ranking is not None:
        totals[1] = _row_totals(parts.ranking, None, included)
    return FiringBlock(
        start=start,
        stop=start + n,
        indptr=np.concatenate([[0], np.cumsum(counts.cpu().numpy())]),
        positions=position.to(torch.int32).cpu().numpy(),
        values=values.cpu().numpy(),
        windows=DeviceWindows(parts, included),
        row_totals=totals,
    )


def _n_kinds(parts: LayerParts) -> int:
    return 1 if parts.inputs is None and parts.ranking is None else 2


def _width(parts: LayerParts) -> int:
    return 1 if parts.inputs is None else parts.inputs.shape[-1]


def _values(parts: LayerParts, position: Tensor, component: Tensor) -> list[Tensor]:
    """Each kind's activation at (position, component), float32, in the shape of the indices."""
    values = [parts.gating.flatten(0, 1)[position, component].float().clamp(parts.low, parts.high)]
    if parts.inputs is not None:
        assert parts.weights is not None
        inputs = parts.inputs.flatten(0, 1)[position].float()
        values.append((inputs * parts.weights.float()[component]).sum(-1))
    elif parts.ranking is not None:
        values.append(parts.ranking.flatten(0, 1)[position, component].float())
    return values


def _row_totals(values: Tensor, weights: Tensor | None, included: Tensor) -> RowTotals:
    sums = torch.where(included[:, :, None], values, 0).double().sum(1)
    return RowTotals(sums.cpu().numpy(), None if weights is None else weights.float().cpu().numpy())
