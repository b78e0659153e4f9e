"""Kernels that turn grouped firings into sparse counts, one component after the other.

Each works on a contiguous range of components with one dense row of scratch memory (Gustavson's order of the sparse
product F'F, F'X, F'Q): memory per thread is O(C + V), whatever the number of components with entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spd_tools.harvest.exact_sums import add_exactly
from spd_tools.harvest.firings import MASS_BITS
from spd_tools.harvest.prefetch import prefetch
from spd_tools.store.histogram import FIRST_CODE, N_MAGNITUDES

_BLOCK = 16
_AHEAD = 6  # a firing's neighbours lie anywhere in memory: they are asked for this many firings early
_LINES = 8
_MASS_BITS = np.uint64(MASS_BITS)
_MASS = np.uint64((1 << MASS_BITS) - 1)


@njit(nogil=True, cache=True)
def append_block(
    position: NDArray[Any],
    place: NDArray[Any],
    values: NDArray[Any],
    indptr: NDArray[Any],
    block_position: NDArray[Any],
    block_place: NDArray[Any],
    block_values: NDArray[Any],
    first_position: int,
    first_place: int,
    start: int,
    cursor: NDArray[Any],
) -> None:
    """Copy a block's firings behind those of earlier rows; advances ``cursor``."""
    n_kinds = values.shape[0]
    for c in range(len(indptr) - 1):
        at = cursor[start + c]
        begin = indptr[c]
        n = indptr[c + 1] - begin
        for f in range(n):
            position[at + f] = first_position + block_position[begin + f]
            place[at + f] = first_place + block_place[begin + f]
        for kind in range(n_kinds):
            for f in range(n):
                values[kind, at + f] = block_values[kind, begin + f]
        cursor[start + c] = at + n


@njit(nogil=True, cache=True)
def count_positions(position: NDArray[Any], counts: NDArray[Any]) -> None:
    """counts[t] += how often t occurs."""
    for f in range(len(position)):
        counts[position[f]] += 1


@njit(nogil=True, cache=True)
def by_position(
    start: int,
    indptr: NDArray[Any],
    position: NDArray[Any],
    cursor: NDArray[Any],
    component_at: NDArray[Any],
    place: NDArray[Any],
) -> None:
    """List each position's components; ``place`` is where each firing landed. Blocks come in ascending order."""
    for c in range(len(indptr) - 1):
        for f in range(indptr[c], indptr[c + 1]):
            t = position[f]
            at = cursor[t]
            cursor[t] = at + 1
            component_at[at] = start + c
            place[f] = at


@njit(nogil=True, cache=True)
def pair_work(
    indptr: NDArray[Any],
    position: NDArray[Any],
    place: NDArray[Any],
    position_end: NDArray[Any],
    work: NDArray[Any],
    c0: int,
    c1: int,
) -> None:
    """work[c]: how many pairs (c, j > c) fire together, with multiplicity."""
    for c in range(c0, c1):
        total = 0
        for f in range(indptr[c], indptr[c + 1]):
            total += position_end[position[f]] - place[f] - 1
        work[c] = total


@njit(nogil=True, cache=True, inline="always")
def _collect(row: NDArray[Any], first: int, out_column: NDArray[Any], out_value: NDArray[Any], found: int) -> int:
    """Move the non-zero entries of row[first:] to the outputs, ascending, and zero them. Returns the new count."""
    n = len(row)
    b = first
    while b < n:
        stop = min(b + _BLOCK, n)
        if stop - b == _BLOCK:
            any_bits = row[b]
            for j in range(1, _BLOCK):
                any_bits |= row[b + j]
            if any_bits == 0:
                b = stop
                continue
        for j in range(b, stop):
            if row[j] != 0:
                out_column[found] = j
                out_value[found] = row[j]
                row[j] = 0
                found += 1
        b = stop
    return found


@njit(nogil=True, cache=True)
def count_pairs(
    indptr: NDArray[Any],
    position: NDArray[Any],
    place: NDArray[Any],
    position_end: NDArray[Any],
    component_at: NDArray[Any],
    row: NDArray[Any],
    lengths: NDArray[Any],
    out_partner: NDArray[Any],
    out_count: NDArray[Any],
    c0: int,
    c1: int,
) -> int:
    """n_cj for j > c. ``row``: zeros[C]. Returns the number of entries written; ``lengths[c]`` gets those of c."""
    found = 0
    for c in range(c0, c1):
        before = found
        for f in range(indptr[c], indptr[c + 1]):
            if f + _AHEAD < indptr[c + 1]:
                prefetch(position_end.ctypes.data + 8 * position[f + _AHEAD])
                for line in range(_LINES):
                    prefetch(component_at.ctypes.data + 4 * place[f + _AHEAD] + 64 * line)
            later = component_at[place[f] + 1 : position_end[position[f]]]
            for s in range(len(later)):
                row[np.uint64(later[s])] += 1  # unsigned: no check for negative indices
        if indptr[c] < indptr[c + 1]:
            found = _collect(row, c + 1, out_partner, out_count, found)
        lengths[c] = found - before
    return found


@njit(nogil=True, cache=True)
def count_inputs(
    indptr: NDArray[Any],
    position: NDArray[Any],
    tokens: NDArray[Any],
    row: NDArray[Any],
    lengths: NDArray[Any],
    out_token: NDArray[Any],
    out_count: NDArray[Any],
    c0: int,
    c1: int,
) -> int:
    """I_cv. ``row``: zeros[V]."""
    found = 0
    for c in range(c0, c1):
        before = found
        for f in range(indptr[c], indptr[c + 1]):
            row[np.uint64(tokens[position[f]])] += 1
        if indptr[c] < indptr[c + 1]:
            found = _collect(row, 0, out_token, out_count, found)
        lengths[c] = found - before
    return found


@njit(nogil=True, cache=True)
def count_outputs(
    indptr: NDArray[Any],
    position: NDArray[Any],
    q_indptr: NDArray[Any],
    q_packed: NDArray[Any],
    row: NDArray[Any],
    lengths: NDArray[Any],
    out_token: NDArray[Any],
    out_mass: NDArray[Any],
    c0: int,
    c1: int,
) -> int:
    """O_cv in mass units. ``row``: zeros[V]."""
    found = 0
    for c in range(c0, c1):
        before = found
        for f in range(indptr[c], indptr[c + 1]):
            if f + 2 * _AHEAD < indptr[c + 1]:
                prefetch(q_indptr.ctypes.data + 8 * position[f + 2 * _AHEAD])
                for line in range(_LINES):
                    prefetch(q_packed.ctypes.data + 8 * q_indptr[position[f + _AHEAD]] + 64 * line)
            t = position[f]
            packed = q_packed[q_indptr[t] : q_indptr[t + 1]]
            for q in range(len(packed)):
                row[packed[q] >> _MASS_BITS] += np.int64(packed[q] & _MASS)
        if indptr[c] < indptr[c + 1]:
            found = _collect(row, 0, out_token, out_mass, found)
        lengths[c] = found - before
    return found


@njit(nogil=True, cache=True)
def count_histogram(
    indptr: NDArray[Any],
    ranking: NDArray[Any],
    row: NDArray[Any],
    lengths: NDArray[Any],
    out_bin: NDArray[Any],
    out_count: NDArray[Any],
    c0: int,
    c1: int,
) -> int:
    """h_c over bins shifted by N_MAGNITUDES (so that they ascend from the most negative). ``row``: zeros[2 N]."""
    found = 0
    for c in range(c0, c1):
        before = found
        for f in range(indptr[c], indptr[c + 1]):
            bits = np.int64(np.float32(ranking[f]).view(np.uint32))
            magnitude = ((bits & 0x7FFFFFFF) >> 20) - FIRST_CODE + 1
            magnitude = min(max(magnitude, 0), N_MAGNITUDES - 1)
            row[N_MAGNITUDES + (-1 - magnitude if bits >> 31 else magnitude)] += 1
        if indptr[c] < indptr[c + 1]:
            found = _collect(row, 0, out_bin, out_count, found)
        lengths[c] = found - before
    return found


@njit(nogil=True, cache=True)
def sum_firings(
    indptr: NDArray[Any],
    position: NDArray[Any],
    values: NDArray[Any],
    dropped_at: NDArray[Any],
    sums: NDArray[Any],
    dropped: NDArray[Any],
    c0: int,
    c1: int,
) -> None:
    """Add firings to the exact sums: [C, kinds, 2 (signed, absolute), limbs], and D_c in mass units."""
    for c in range(c0, c1):
        for kind in range(values.shape[0]):
            signed = sums[c, kind, 0]
            absolute = sums[c, kind, 1]
            for f in range(indptr[c], indptr[c + 1]):
                add_exactly(signed, values[kind, f])
                add_exactly(absolute, np.abs(values[kind, f]))
        for f in range(indptr[c], indptr[c + 1]):
            dropped[c] += dropped_at[position[f]]


@njit(nogil=True, cache=True)
def add_row_totals(totals: NDArray[Any], sums: NDArray[Any]) -> None:
    """Add [rows, n] row sums to exact sums [n, limbs]."""
    for c in range(totals.shape[1]):
        for r in range(totals.shape[0]):
            add_exactly(sums[c], totals[r, c])


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _dot(a: NDArray[Any], b: NDArray[Any]) -> Any:
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@njit(nogil=True, cache=True)
def add_projected_totals(rows: NDArray[Any], weights: NDArray[Any], sums: NDArray[Any]) -> None:
    """Add rows @ weights.T [rows, n] to exact sums [n, limbs]; each product in the same order, whatever the rows."""
    for c in range(weights.shape[0]):
        for r in range(rows.shape[0]):
            add_exactly(sums[c], _dot(rows[r], weights[c]))


@njit(nogil=True, cache=True)
def sum_masses(packed: NDArray[Any], out: NDArray[Any]) -> None:
    """Add packed masses up by token."""
    for i in range(len(packed)):
        out[packed[i] >> _MASS_BITS] += np.int64(packed[i] & _MASS)


@njit(nogil=True, cache=True)
def kept_mass(indptr: NDArray[Any], packed: NDArray[Any], out: NDArray[Any]) -> None:
    """out[t] = mass of position t's packed entries."""
    for t in range(len(out)):
        total = 0
        for j in range(indptr[t], indptr[t + 1]):
            total += np.int64(packed[j] & _MASS)
        out[t] = total


@njit(nogil=True, cache=True)
def count_logged(
    indptr: NDArray[Any], position: NDArray[Any], logged_at: NDArray[Any], lengths: NDArray[Any], c0: int, c1: int
) -> None:
    """lengths[c] = number of firings of c at logged positions."""
    for c in range(c0, c1):
        total = 0
        for f in range(indptr[c], indptr[c + 1]):
            total += logged_at[position[f]] >= 0
        lengths[c] = total


@njit(nogil=True, cache=True)
def copy_logged(
    indptr: NDArray[Any],
    position: NDArray[Any],
    values: NDArray[Any],
    logged_at: NDArray[Any],
    out_token: NDArray[Any],
    out_values: NDArray[Any],
    c0: int,
    c1: int,
) -> int:
    """Firings of c0..c1-1 at logged positions; ``logged_at``: token number within the harvest, or -1."""
    at = 0
    for c in range(c0, c1):
        for f in range(indptr[c], indptr[c + 1]):
            token = logged_at[position[f]]
            if token >= 0:
                out_token[at] = token
                for kind in range(values.shape[0]):
                    out_values[kind, at] = values[kind, f]
                at += 1
    return at
