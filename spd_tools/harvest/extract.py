"""Dense activations of one layer -> its firings.

Dense tensors are read once, right after the layer was computed; what leaves is sparse. Where the ranking activation is
linear in the layer's input (SPD), it is only computed where it is needed: at firings and inside examples' windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.harvest.firings import FiringBlock, RowTotals

_BLOCK = 16  # one AVX-512 register of float32: most blocks hold no firing and cost one comparison


@dataclass(frozen=True)
class Columns:
    """Columns column..column + n - 1 of a C-contiguous float32 matrix [positions, width], read through a clamp."""

    matrix: NDArray[np.float32]
    column: int = 0
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class Projection:
    """A linear readout that is evaluated where it is asked for: inputs @ weights.T."""

    inputs: NDArray[np.float32]
    """[positions, d_in]"""
    weights: NDArray[np.float32]
    """[n, d_in]"""
    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """What ``row_sums`` found; layers that read the same inputs share it."""

    def row_sums(self, included: NDArray[np.bool_]) -> NDArray[np.float64]:
        """[rows, d_in] sums of the inputs over each row's included positions."""
        if "rows" not in self.sums:
            found = np.zeros((len(included), self.inputs.shape[1]))
            _row_sums(self.inputs, included, found)
            self.sums["rows"] = found
        return self.sums["rows"]


@dataclass(frozen=True)
class LayerActivations:
    """One layer's activations in one batch."""

    name: str
    start: int
    """Flat index of the layer's first component."""
    n: int
    gating: Columns
    ranking: Columns | Projection | None
    """None when the gating activation also ranks."""


@njit(nogil=True, cache=True)
def _scan(
    matrix: NDArray[Any],
    column: int,
    n: int,
    threshold: np.float32,
    included: NDArray[Any],
    out_component: NDArray[Any],
    out_position: NDArray[Any],
    counts: NDArray[Any],
) -> int:
    """Collect (component, position) of every entry above the threshold (or NaN); returns how many were collected.

    Once the outputs have no room for another row, entries are only counted.
    """
    found = 0
    for t in range(len(included)):
        if not included[t]:
            continue
        row = matrix[t, column : column + n]
        full = found + n > len(out_component)
        for b in range(0, n, _BLOCK):
            stop = min(b + _BLOCK, n)
            hits = 0
            if stop - b == _BLOCK:
                for j in range(_BLOCK):
                    hits += not (row[b + j] <= threshold)  # true for NaN as well
            else:
                hits = 1
            if hits == 0:
                continue
            if full:
                for j in range(b, stop):
                    counts[j] += not (row[j] <= threshold)
                continue
            for j in range(b, stop):  # no branch: which of them fire cannot be predicted
                fires = not (row[j] <= threshold)
                out_component[found] = j
                out_position[found] = t
                found += fires
                counts[j] += fires
    return found


@njit(nogil=True, cache=True)
def _scatter(
    matrix: NDArray[Any],
    column: int,
    low: np.float32,
    high: np.float32,
    components: NDArray[Any],
    positions: NDArray[Any],
    cursor: NDArray[Any],
    out_position: NDArray[Any],
    out_value: NDArray[Any],
) -> bool:
    """Group what ``_scan`` found by component; returns whether a value is NaN or infinite."""
    broken = False
    for i in range(len(components)):
        c = components[i]
        at = cursor[c]
        cursor[c] = at + 1
        value = matrix[positions[i], column + c]
        broken |= value - value != 0
        out_position[at] = positions[i]
        out_value[at] = min(max(value, low), high)
    return broken


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def dot(a: NDArray[Any], b: NDArray[Any]) -> np.float32:
    """Dot product in an order that the compiler fixes: equal inputs give equal bits, whatever the batch."""
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@njit(nogil=True, cache=True)
def _project(
    inputs: NDArray[Any], weights: NDArray[Any], indptr: NDArray[Any], positions: NDArray[Any], out: NDArray[Any]
) -> None:
    for c in range(len(indptr) - 1):
        for f in range(indptr[c], indptr[c + 1]):
            out[f] = dot(inputs[positions[f]], weights[c])


@njit(nogil=True, cache=True)
def _pick(
    matrix: NDArray[Any],
    column: int,
    low: np.float32,
    high: np.float32,
    indptr: NDArray[Any],
    positions: NDArray[Any],
    out: NDArray[Any],
) -> None:
    for c in range(len(indptr) - 1):
        for f in range(indptr[c], indptr[c + 1]):
            out[f] = min(max(matrix[positions[f], column + c], low), high)


@njit(nogil=True, cache=True)
def _column_totals(
    matrix: NDArray[Any], column: int, low: np.float32, high: np.float32, included: NDArray[Any], out: NDArray[Any]
) -> None:
    seq = included.shape[1]
    n = out.shape[1]
    for r in range(included.shape[0]):
        for s in range(seq):
            if included[r, s]:
                for j in range(n):
                    out[r, j] += np.float64(min(max(matrix[r * seq + s, column + j], low), high))


@njit(nogil=True, cache=True)
def _row_sums(matrix: NDArray[Any], included: NDArray[Any], out: NDArray[Any]) -> None:
    seq = included.shape[1]
    for r in range(included.shape[0]):
        total = out[r]
        for s in range(seq):
            if included[r, s]:
                row = matrix[r * seq + s]
                for j in range(len(total)):
                    total[j] += np.float64(row[j])


@njit(nogil=True, cache=True, inline="always")
def _inside(included: NDArray[Any], position: int, width: int) -> tuple[int, int]:
    """First and last + 1 offset of the window around a position that are in its row."""
    seq = included.shape[1]
    s = position % seq
    return max(-width, -s), min(width + 1, seq - s)


@njit(nogil=True, cache=True)
def _fill_columns(
    matrix: NDArray[Any],
    column: int,
    low: np.float32,
    high: np.float32,
    included: NDArray[Any],
    width: int,
    out: NDArray[Any],
    slots: NDArray[Any],
    local: NDArray[Any],
    positions: NDArray[Any],
) -> None:
    counted = included.ravel()
    for i in range(len(slots)):
        at, window = positions[i], out[slots[i]]
        first, end = _inside(included, at, width)
        window[: width + first] = np.nan
        window[width + end :] = np.nan
        for k in range(first, end):
            value = min(max(matrix[at + k, column + local[i]], low), high)
            window[width + k] = value if counted[at + k] else np.nan


@njit(nogil=True, cache=True)
def _fill_projection(
    inputs: NDArray[Any],
    weights: NDArray[Any],
    included: NDArray[Any],
    width: int,
    out: NDArray[Any],
    slots: NDArray[Any],
    local: NDArray[Any],
    positions: NDArray[Any],
) -> None:
    counted = included.ravel()
    for i in range(len(slots)):
        at, window, readout = positions[i], out[slots[i]], weights[local[i]]
        first, end = _inside(included, at, width)
        window[: width + first] = np.nan
        window[width + end :] = np.nan
        for k in range(first, end):
            window[width + k] = dot(inputs[at + k], readout) if counted[at + k] else np.nan


@dataclass(frozen=True)
class DenseWindows:
    """Windows read off a layer's dense activations (or computed from its inputs)."""

    layer: LayerActivations
    included: NDArray[np.bool_]

    def fill(
        self,
        out: NDArray[np.float32],
        slots: NDArray[np.int64],
        components: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> None:
        """See WindowSource."""
        width = out.shape[2] // 2
        for kind, source in enumerate((self.layer.gating, self.layer.ranking)):
            if isinstance(source, Projection):
                given = (source.inputs, source.weights)
                _fill_projection(*given, self.included, width, out[:, kind], slots, components, positions)
            elif source is not None:
                given = (source.matrix, source.column, np.float32(source.low), np.float32(source.high))
                _fill_columns(*given, self.included, width, out[:, kind], slots, components, positions)


def extract_block(layer: LayerActivations, threshold: float, included: NDArray[np.bool_]) -> FiringBlock:
    """Firings of one layer.

    Args:
        layer: its dense activations.
        threshold: firing is gating activation > threshold.
        included: [rows, seq]

    Raises:
        SpdToolsError: when an activation at a firing is NaN or infinite.
    """
    positions, indptr, gating_values = _find(layer, threshold, included)
    values = [gating_values]
    totals: dict[int, RowTotals] = {}
    if not (threshold == 0 and layer.gating.low == 0):
        totals[0] = _totals(layer.gating, layer.n, included)
    if layer.ranking is not None:
        values.append(_read(layer.ranking, indptr, positions))
        if not np.isfinite(values[-1]).all():
            raise not_finite(layer.name)
        totals[1] = _totals(layer.ranking, layer.n, included)
    return FiringBlock(
        start=layer.start,
        stop=layer.start + layer.n,
        indptr=indptr,
        positions=positions,
        values=np.stack(values),
        windows=DenseWindows(layer, included),
        row_totals=totals,
    )


def not_finite(name: str) -> SpdToolsError:
    """The error for an activation that is no number."""
    return SpdToolsError(
        f"Layer {name} has an activation that is NaN or infinite; check the checkpoint, "
        "or harvest with --precision f32."
    )


def _find(
    layer: LayerActivations, threshold: float, included: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]:
    """Positions grouped by component, indptr and gating values at the firings."""
    source, n = layer.gating, layer.n
    # Clamping cannot lift an entry over a threshold inside [low, high): firing is decided on the raw values.
    assert source.low <= threshold < source.high
    mask = included.reshape(-1)
    counts = np.zeros(n, np.int64)
    capacity = len(mask) * n // 16 + 2 * n
    while True:
        pairs = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        counts[:] = 0
        found = _scan(source.matrix, source.column, n, np.float32(threshold), mask, *pairs, counts)
        total = int(counts.sum())
        if found == total:
            break
        capacity = total + n
    indptr = np.zeros(n + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    positions, values = np.empty(found, np.int32), np.empty(found, np.float32)
    clamp = np.float32(source.low), np.float32(source.high)
    kept = (pairs[0][:found], pairs[1][:found])
    if _scatter(source.matrix, source.column, *clamp, *kept, indptr[:-1].copy(), positions, values):
        raise not_finite(layer.name)
    return positions, indptr, values


def _read(source: Columns | Projection, indptr: NDArray[np.int64], positions: NDArray[np.int32]) -> NDArray[np.float32]:
    out = np.empty(len(positions), np.float32)
    if isinstance(source, Projection):
        _project(source.inputs, source.weights, indptr, positions, out)
    else:
        clamp = np.float32(source.low), np.float32(source.high)
        _pick(source.matrix, source.column, *clamp, indptr, positions, out)
    return out


def _totals(source: Columns | Projection, n: int, included: NDArray[np.bool_]) -> RowTotals:
    n_rows = len(included)
    if isinstance(source, Projection):
        # The sum of a linear readout is the readout of the sum: d_in numbers per row instead of n per position.
        return RowTotals(source.row_sums(included), source.weights)
    sums = np.zeros((n_rows, n))
    _column_totals(source.matrix, source.column, np.float32(source.low), np.float32(source.high), included, sums)
    return RowTotals(sums)
