"""Kernels of the merge: add up sparse rows, mirror the upper triangle."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_BLOCK = 16


@njit(nogil=True, cache=True)
def add_rows(
    starts: NDArray[Any],
    columns: NDArray[Any],
    values: NDArray[Any],
    row: NDArray[Any],
    lengths: NDArray[Any],
    out_columns: NDArray[Any],
    out_values: NDArray[Any],
) -> int:
    """Add the sparse rows of several segments.

    Args:
        starts: [segments, n + 1] into columns and values.
        columns: ascending within each segment's row.
        values: integers.
        row: int64 zeros, as long as the largest column + 1.
        lengths: [n] gets the entries of each row.
        out_columns, out_values: room for all entries.

    Returns the number of entries written; ``row`` is zero again.
    """
    n_segments, n = starts.shape[0], starts.shape[1] - 1
    found = 0
    for c in range(n):
        before = found
        low, high = len(row), -1
        for s in range(n_segments):
            a, b = starts[s, c], starts[s, c + 1]
            if a == b:
                continue
            low = min(low, columns[a])
            high = max(high, columns[b - 1])
            for e in range(a, b):
                row[columns[e]] += values[e]
        column = low
        while column <= high:
            if column + _BLOCK <= high:
                any_bits = row[column]
                for j in range(1, _BLOCK):
                    any_bits |= row[column + j]
                if any_bits == 0:
                    column += _BLOCK
                    continue
            for j in range(column, min(column + _BLOCK, high + 1)):
                if row[j] != 0:
                    out_columns[found] = j
                    out_values[found] = row[j]
                    row[j] = 0
                    found += 1
            column += _BLOCK
        lengths[c] = found - before
    return found


@njit(nogil=True, cache=True)
def mirror(
    indptr: NDArray[Any],
    partner: NDArray[Any],
    count: NDArray[Any],
    cursor: NDArray[Any],
    c0: int,
    c1: int,
    offsets: NDArray[Any],
    lower: NDArray[Any],
    out_partner: NDArray[Any],
    out_count: NDArray[Any],
) -> None:
    """Full rows c0..c1-1 of a symmetric matrix from its upper triangle.

    Args:
        indptr, partner, count: the strict upper triangle by rows, columns ascending.
        cursor: [C] first entry of each row whose column is >= c0; moved on to the next block.
        offsets: [n + 1] where each full row begins in the outputs.
        lower: [n] entries left of the diagonal.
    """
    filled = np.zeros(c1 - c0, np.int64)
    for i in range(c1):
        at = cursor[i]
        end = indptr[i + 1]
        while at < end and partner[at] < c1:
            j = partner[at] - c0
            to = offsets[j] + filled[j]
            filled[j] += 1
            out_partner[to] = i
            out_count[to] = count[at]
            at += 1
        cursor[i] = at
    for j in range(c1 - c0):
        begin = indptr[c0 + j]
        to = offsets[j] + lower[j]
        for e in range(indptr[c0 + j + 1] - begin):
            out_partner[to + e] = partner[begin + e]
            out_count[to + e] = count[begin + e]


@njit(nogil=True, cache=True)
def unsorted_rows(indptr: NDArray[Any], values: NDArray[Any], flags: NDArray[Any]) -> None:
    """flags[c]: values[indptr[c]:indptr[c + 1]] does not ascend."""
    for c in range(len(indptr) - 1):
        for f in range(indptr[c] + 1, indptr[c + 1]):
            if values[f] < values[f - 1]:
                flags[c] = True
                break


@njit(nogil=True, cache=True)
def interleave(starts: NDArray[Any], source: NDArray[Any], out: NDArray[Any], indptr: NDArray[Any]) -> None:
    """Lay the segments' rows of each component behind each other: [segments, n + 1] -> by component."""
    n_segments, n = starts.shape[0], starts.shape[1] - 1
    at = 0
    for c in range(n):
        for s in range(n_segments):
            for e in range(starts[s, c], starts[s, c + 1]):
                out[at] = source[e]
                at += 1
        indptr[c + 1] = at
