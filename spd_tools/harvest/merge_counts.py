"""Sparse counts of all segments -> the store, one block of components at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_tools.files import atomic_file
from spd_tools.harvest.firings import MASS_UNIT_BITS
from spd_tools.harvest.merging import add_rows, mirror
from spd_tools.harvest.parallel import capped_bounds, in_order, n_threads
from spd_tools.harvest.shards import Segments
from spd_tools.store.schema import CORRELATIONS_SCHEMA, TOKEN_STATS_SCHEMA
from spd_tools.store.writer import FileLog, ListRows, arrow_file

_ENTRY_BYTES = 40
"""Memory per sparse entry of a block: as gathered, as added up, and as handed to the file."""


@dataclass(frozen=True)
class SparseBlock:
    """Added-up rows of components start..start + len(lengths) - 1."""

    start: int
    lengths: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: NDArray[np.int64]


def block_cap(memory_bytes: int) -> int:
    """Sparse entries per block: each thread works on one block, and as many wait."""
    return max(1 << 12, memory_bytes // (_ENTRY_BYTES * (2 * n_threads() + 1)))


def added_up(
    segments: Segments, name: str, fields: tuple[str, str], n_components: int, width: int, cap: int
) -> Iterator[SparseBlock]:
    """A sparse quantity summed over segments, block by block in component order.

    Args:
        fields: sections of columns and of values.
        width: number of possible columns.
        cap: entries per block.
    """

    return in_order(
        lambda c0, c1: _add_up(segments, name, fields, width, c0, c1),
        capped_bounds(segments.lengths(name, n_components), cap),
    )


def _add_up(segments: Segments, name: str, fields: tuple[str, str], width: int, c0: int, c1: int) -> SparseBlock:
    gathered = segments.gather(name, list(fields), c0, c1)
    columns, values = gathered.arrays
    lengths = np.zeros(c1 - c0, np.int64)
    out_columns, out_values = np.empty(len(columns), np.int32), np.empty(len(columns), np.int64)
    found = add_rows(gathered.starts, columns, values, np.zeros(width, np.int64), lengths, out_columns, out_values)
    return SparseBlock(c0, lengths, out_columns[:found].copy(), out_values[:found].copy())


def merge_token_stats(log: FileLog, segments: Segments, n_components: int, vocab_size: int, cap: int) -> None:
    """token_stats.arrow"""
    both = segments.lengths("input", n_components) + segments.lengths("output", n_components)

    def block(c0: int, c1: int) -> tuple[SparseBlock, SparseBlock]:
        return (
            _add_up(segments, "input", ("token", "count"), vocab_size, c0, c1),
            _add_up(segments, "output", ("token", "mass"), vocab_size, c0, c1),
        )

    groups = {"input": ["input_token", "input_count"], "output": ["output_token", "output_mass"]}
    with arrow_file(log, "token_stats.arrow", TOKEN_STATS_SCHEMA) as sink:
        rows = ListRows(sink, TOKEN_STATS_SCHEMA, groups)
        for inputs, outputs in in_order(block, capped_bounds(both, cap)):
            rows.add(
                {"input": inputs.lengths, "output": outputs.lengths},
                {
                    "input_token": inputs.columns,
                    "input_count": inputs.values,
                    "output_token": outputs.columns,
                    "output_mass": outputs.values / 2.0**MASS_UNIT_BITS,
                },
            )
        rows.finish()


def merge_correlations(log: FileLog, segments: Segments, n_components: int, cap: int) -> int:
    """correlations.arrow; returns the number of pairs i < j with n_ij > 0."""
    scratch = log.folder / "merging-partner.bin", log.folder / "merging-count.bin"
    try:
        indptr, lower = _write_upper(scratch, segments, n_components, cap)
        _write_mirrored(log, indptr, lower, _map(scratch[0], np.int32), _map(scratch[1], np.int64), cap)
    finally:
        for path in scratch:
            path.unlink(missing_ok=True)
    return int(indptr[-1])


def _map(path: Path, dtype: type) -> NDArray[Any]:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _write_upper(
    scratch: tuple[Path, Path], segments: Segments, n_components: int, cap: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The strict upper triangle, to two files; returns its row pointers and the number of entries in each column."""
    lengths = np.zeros(n_components, np.int64)
    lower = np.zeros(n_components, np.int64)
    with atomic_file(scratch[0]) as partner, atomic_file(scratch[1]) as count:
        for block in added_up(segments, "pairs", ("partner", "count"), n_components, n_components, cap):
            lengths[block.start : block.start + len(block.lengths)] = block.lengths
            lower += np.bincount(block.columns, minlength=n_components)
            partner.write(block.columns)
            count.write(block.values)
    return np.concatenate([[0], np.cumsum(lengths)]), lower


def _write_mirrored(
    log: FileLog,
    indptr: NDArray[np.int64],
    lower: NDArray[np.int64],
    partner: NDArray[np.int32],
    count: NDArray[np.int64],
    cap: int,
) -> None:
    lengths = lower + np.diff(indptr)
    cursor = indptr[:-1].copy()
    with arrow_file(log, "correlations.arrow", CORRELATIONS_SCHEMA) as sink:
        rows = ListRows(sink, CORRELATIONS_SCHEMA, {"pairs": ["partner", "count"]})
        for c0, c1 in capped_bounds(lengths, cap):
            offsets = np.concatenate([[0], np.cumsum(lengths[c0:c1])])
            out_partner, out_count = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int64)
            mirror(indptr, partner, count, cursor, c0, c1, offsets, lower[c0:c1], out_partner, out_count)
            rows.add({"pairs": lengths[c0:c1]}, {"partner": out_partner, "count": out_count})
        rows.finish()
