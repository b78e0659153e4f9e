"""Dense activations of one layer -> its firings.

Dense tensors are read once, right after the layer was computed; what leaves is sparse. Where the ranking activation is
linear in the layer's input (SPD), it is only computed where it is needed: at firings and inside examples' windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.harvest.firings import FiringBlock
from spd_tools.harvest.parallel import even_bounds, n_threads, run_ranges, weighted_bounds

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
def _scan(matrix, column, n, threshold, included, t0, t1, out_component, out_position, counts):  # noqa: ANN001, ANN202
    """Collect (component, position) of every entry above the threshold. Returns (number found, found a NaN or inf)."""
    found = 0
    capacity = len(out_component)
    for t in range(t0, t1):
        if not included[t]:
            continue
        row = matrix[t, column : column + n]
        for b in range(0, n, _BLOCK):
            stop = min(b + _BLOCK, n)
            quiet = True
            if stop - b == _BLOCK:
                hits = 0
                for j in range(_BLOCK):
                    hits += not (row[b + j] <= threshold)  # true for NaN as well
                quiet = hits == 0
            else:
                for j in range(b, stop):
                    quiet &= row[j] <= threshold
            if quiet:
                continue
            for j in range(b, stop):
                value = row[j]
                if not (value <= threshold):
                    if value - value != 0:
                        return found, True
                    if found < capacity:
                        out_component[found] = j
                        out_position[found] = t
                    counts[j] += 1
                    found += 1
    return found, False


@njit(nogil=True, cache=True)
def _scatter(matrix, column, low, high, components, positions, cursor, out_position, out_value):  # noqa: ANN001, ANN202
    for i in range(len(components)):
        c = components[i]
        at = cursor[c]
        cursor[c] = at + 1
        out_position[at] = positions[i]
        out_value[at] = min(max(matrix[positions[i], column + c], low), high)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def dot(a, b):  # noqa: ANN001, ANN201
    """Dot product in an order that the compiler fixes: equal inputs give equal bits, whatever the batch."""
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@njit(nogil=True, cache=True)
def _project(inputs, weights, indptr, positions, out, c0, c1):  # noqa: ANN001, ANN202
    for c in range(c0, c1):
        for f in range(indptr[c], indptr[c + 1]):
            out[f] = dot(inputs[positions[f]], weights[c])


@njit(nogil=True, cache=True)
def _pick(matrix, column, low, high, indptr, positions, out, c0, c1):  # noqa: ANN001, ANN202
    for c in range(c0, c1):
        for f in range(indptr[c], indptr[c + 1]):
            out[f] = min(max(matrix[positions[f], column + c], low), high)


@njit(nogil=True, cache=True)
def _column_totals(matrix, column, low, high, included, out, r0, r1):  # noqa: ANN001, ANN202
    seq = included.shape[1]
    n = out.shape[1]
    for r in range(r0, r1):
        for s in range(seq):
            if included[r, s]:
                for j in range(n):
                    out[r, j] += np.float64(min(max(matrix[r * seq + s, column + j], low), high))


@njit(nogil=True, cache=True)
def _fill_columns(matrix, column, low, high, included, width, out, slots, local, positions, i0, i1):  # noqa: ANN001, ANN202
    seq = included.shape[1]
    for i in range(i0, i1):
        r, s = divmod(positions[i], seq)
        for k in range(-width, width + 1):
            inside = 0 <= s + k < seq and included[r, s + k]
            if inside:
                out[slots[i], width + k] = min(max(matrix[positions[i] + k, column + local[i]], low), high)
            else:
                out[slots[i], width + k] = np.nan


@njit(nogil=True, cache=True)
def _fill_projection(inputs, weights, included, width, out, slots, local, positions, i0, i1):  # noqa: ANN001, ANN202
    seq = included.shape[1]
    for i in range(i0, i1):
        r, s = divmod(positions[i], seq)
        for k in range(-width, width + 1):
            inside = 0 <= s + k < seq and included[r, s + k]
            out[slots[i], width + k] = dot(inputs[positions[i] + k], weights[local[i]]) if inside else np.nan


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
        local = components - self.layer.start
        bounds = even_bounds(len(slots), n_threads())
        for kind, source in enumerate((self.layer.gating, self.layer.ranking)):
            if source is None:
                continue
            args = (out[:, kind], slots, local, positions)
            if isinstance(source, Projection):
                run_ranges(
                    lambda _, i0, i1, s=source, a=args: _fill_projection(
                        s.inputs, s.weights, self.included, width, *a, i0, i1
                    ),
                    bounds,
                )
            else:
                run_ranges(
                    lambda _, i0, i1, s=source, a=args: _fill_columns(
                        s.matrix, s.column, np.float32(s.low), np.float32(s.high), self.included, width, *a, i0, i1
                    ),
                    bounds,
                )


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
    totals: dict[int, NDArray[np.float64]] = {}
    if not (threshold == 0 and layer.gating.low == 0):
        totals[0] = _totals(layer.gating, layer.n, included)
    if layer.ranking is not None:
        values.append(_read(layer.ranking, layer.n, indptr, positions))
        if not np.isfinite(values[-1]).all():
            raise _not_finite(layer.name)
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


def _not_finite(name: str) -> SpdToolsError:
    return SpdToolsError(
        f"Layer {name} has an activation that is NaN or infinite; check the checkpoint, or harvest with --precision f32."
    )


def _find(
    layer: LayerActivations, threshold: float, included: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]:
    """Positions grouped by component, indptr and gating values at the firings."""
    source, n = layer.gating, layer.n
    flat_included = included.reshape(-1)
    bounds = even_bounds(len(flat_included), n_threads())
    counts = np.zeros((len(bounds), n), np.int64)
    threshold32 = np.float32(threshold)
    # Clamping cannot lift an entry over a threshold inside [low, high): firing is decided on the raw values.
    assert source.low <= threshold < source.high
    pairs: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = [(np.empty(0, np.int32), np.empty(0, np.int32))] * len(
        bounds
    )

    def scan(part: int, t0: int, t1: int) -> None:
        capacity = max(1024, (t1 - t0) * n // 16)
        while True:
            out = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
            counts[part] = 0
            found, broken = _scan(
                source.matrix, source.column, n, threshold32, flat_included, t0, t1, *out, counts[part]
            )
            if broken:
                raise _not_finite(layer.name)
            if found <= capacity:
                pairs[part] = (out[0][:found], out[1][:found])
                return
            capacity = found

    run_ranges(scan, bounds)
    indptr = np.zeros(n + 1, np.int64)
    np.cumsum(counts.sum(0), out=indptr[1:])
    cursors = indptr[:-1] + np.cumsum(counts, 0) - counts
    positions = np.empty(indptr[-1], np.int32)
    values = np.empty(indptr[-1], np.float32)
    clamp = np.float32(source.low), np.float32(source.high)

    def scatter(part: int, _t0: int, _t1: int) -> None:
        _scatter(source.matrix, source.column, *clamp, *pairs[part], cursors[part], positions, values)

    run_ranges(scatter, bounds)
    return positions, indptr, values


def _read(
    source: Columns | Projection, n: int, indptr: NDArray[np.int64], positions: NDArray[np.int32]
) -> NDArray[np.float32]:
    out = np.empty(len(positions), np.float32)

    def read(_: int, c0: int, c1: int) -> None:
        if isinstance(source, Projection):
            _project(source.inputs, source.weights, indptr, positions, out, c0, c1)
        else:
            clamp = np.float32(source.low), np.float32(source.high)
            _pick(source.matrix, source.column, *clamp, indptr, positions, out, c0, c1)

    run_ranges(read, weighted_bounds(np.diff(indptr), n_threads()))
    return out


def _totals(source: Columns | Projection, n: int, included: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[rows, n] sums over each row's included positions."""
    n_rows, seq = included.shape
    if isinstance(source, Projection):
        # The sum of a linear readout is the readout of the sum: d_in numbers per row instead of n per position.
        inputs = source.inputs.reshape(n_rows, seq, -1)
        where = None if included.all() else included[:, :, None]
        sums = inputs.sum(1, dtype=np.float64, where=True if where is None else where)
        return sums @ source.weights.T.astype(np.float64)
    out = np.zeros((n_rows, n))

    def total(_: int, r0: int, r1: int) -> None:
        clamp = np.float32(source.low), np.float32(source.high)
        _column_totals(source.matrix, source.column, *clamp, included, out, r0, r1)

    run_ranges(total, even_bounds(n_rows, n_threads()))
    return out
