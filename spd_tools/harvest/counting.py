"""Kernels that turn grouped firings into sparse counts, one component after the other.

Each works on a contiguous range of components with one dense row of scratch memory (Gustavson's order of the sparse
product F'F, F'X, F'Q): memory per thread is O(C + V), whatever the number of components with entries.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spd_tools.harvest.exact_sums import add_exactly
from spd_tools.harvest.firings import MASS_BITS
from spd_tools.store.histogram import FIRST_CODE, N_MAGNITUDES

_BLOCK = 16
_MASS_BITS = np.uint64(MASS_BITS)
_MASS = np.uint64((1 << MASS_BITS) - 1)


@njit(nogil=True, cache=True)
def append_block(  # noqa: ANN201
    position,  # noqa: ANN001
    place,  # noqa: ANN001
    values,  # noqa: ANN001
    indptr,  # noqa: ANN001
    block_position,  # noqa: ANN001
    block_place,  # noqa: ANN001
    block_values,  # noqa: ANN001
    first_position,  # noqa: ANN001
    first_place,  # noqa: ANN001
    start,  # noqa: ANN001
    cursor,  # noqa: ANN001
):
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
def count_positions(position, counts):  # noqa: ANN001, ANN201
    """counts[t] += how often t occurs."""
    for f in range(len(position)):
        counts[position[f]] += 1


@njit(nogil=True, cache=True)
def by_position(start, indptr, position, cursor, component_at, place):  # noqa: ANN001, ANN201
    """List each position's components; ``place`` is where each firing landed. Blocks come in ascending order."""
    for c in range(len(indptr) - 1):
        for f in range(indptr[c], indptr[c + 1]):
            t = position[f]
            at = cursor[t]
            cursor[t] = at + 1
            component_at[at] = start + c
            place[f] = at


@njit(nogil=True, cache=True)
def pair_work(indptr, position, place, position_end, work, c0, c1):  # noqa: ANN001, ANN201
    """work[c]: how many pairs (c, j > c) fire together, with multiplicity."""
    for c in range(c0, c1):
        total = 0
        for f in range(indptr[c], indptr[c + 1]):
            total += position_end[position[f]] - place[f] - 1
        work[c] = total


@njit(nogil=True, cache=True, inline="always")
def _collect(row, first, out_column, out_value, found):  # noqa: ANN001, ANN202
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
def count_pairs(indptr, position, place, position_end, component_at, row, lengths, out_partner, out_count, c0, c1):  # noqa: ANN001, ANN201
    """n_cj for j > c. ``row``: zeros[C]. Returns the number of entries written; ``lengths[c]`` gets those of c."""
    found = 0
    for c in range(c0, c1):
        before = found
        for f in range(indptr[c], indptr[c + 1]):
            later = component_at[place[f] + 1 : position_end[position[f]]]
            for s in range(len(later)):
                row[np.uint64(later[s])] += 1  # unsigned: no check for negative indices
        if indptr[c] < indptr[c + 1]:
            found = _collect(row, c + 1, out_partner, out_count, found)
        lengths[c] = found - before
    return found


@njit(nogil=True, cache=True)
def count_inputs(indptr, position, tokens, row, lengths, out_token, out_count, c0, c1):  # noqa: ANN001, ANN201
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
def count_outputs(indptr, position, q_indptr, q_packed, row, lengths, out_token, out_mass, c0, c1):  # noqa: ANN001, ANN201
    """O_cv in mass units. ``row``: zeros[V]."""
    found = 0
    for c in range(c0, c1):
        before = found
        for f in range(indptr[c], indptr[c + 1]):
            t = position[f]
            packed = q_packed[q_indptr[t] : q_indptr[t + 1]]
            for q in range(len(packed)):
                row[packed[q] >> _MASS_BITS] += np.int64(packed[q] & _MASS)
        if indptr[c] < indptr[c + 1]:
            found = _collect(row, 0, out_token, out_mass, found)
        lengths[c] = found - before
    return found


@njit(nogil=True, cache=True)
def count_histogram(indptr, ranking, row, lengths, out_bin, out_count, c0, c1):  # noqa: ANN001, ANN201
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
def sum_firings(indptr, position, values, dropped_at, sums, dropped, c0, c1):  # noqa: ANN001, ANN201
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
def add_row_totals(totals, sums):  # noqa: ANN001, ANN201
    """Add [rows, n] row sums to exact sums [n, limbs]."""
    for c in range(totals.shape[1]):
        for r in range(totals.shape[0]):
            add_exactly(sums[c], totals[r, c])


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _dot(a, b):  # noqa: ANN001, ANN202
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@njit(nogil=True, cache=True)
def add_projected_totals(rows, weights, sums):  # noqa: ANN001, ANN201
    """Add rows @ weights.T [rows, n] to exact sums [n, limbs]; each product in the same order, whatever the rows."""
    for c in range(weights.shape[0]):
        for r in range(rows.shape[0]):
            add_exactly(sums[c], _dot(rows[r], weights[c]))


@njit(nogil=True, cache=True)
def sum_masses(packed, out):  # noqa: ANN001, ANN201
    """Add packed masses up by token."""
    for i in range(len(packed)):
        out[packed[i] >> _MASS_BITS] += np.int64(packed[i] & _MASS)


@njit(nogil=True, cache=True)
def kept_mass(indptr, packed, out):  # noqa: ANN001, ANN201
    """out[t] = mass of position t's packed entries."""
    for t in range(len(out)):
        total = 0
        for j in range(indptr[t], indptr[t + 1]):
            total += np.int64(packed[j] & _MASS)
        out[t] = total


@njit(nogil=True, cache=True)
def count_logged(indptr, position, logged_at, lengths, c0, c1):  # noqa: ANN001, ANN201
    """lengths[c] = number of firings of c at logged positions."""
    for c in range(c0, c1):
        total = 0
        for f in range(indptr[c], indptr[c + 1]):
            total += logged_at[position[f]] >= 0
        lengths[c] = total


@njit(nogil=True, cache=True)
def copy_logged(indptr, position, values, logged_at, out_token, out_values, c0, c1):  # noqa: ANN001, ANN201
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
