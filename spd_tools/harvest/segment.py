"""A segment: the exact, sparse counts of some batches in one immutable file.

A worker writes one when its buffer is full and at every checkpoint; the merge adds them up. Everything in it is an
integer, or belongs to a single firing, so adding in any order gives the same bits.

Sections (``X/indptr`` is [C + 1] into the other sections of X): scalars, firing_count, sums, dropped, vocabulary/*,
pairs/*, input/*, output/*, histogram/*, log/*, uniform/*, top/*.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_tools.harvest import counting
from spd_tools.harvest.buffer import FiringBuffer, GroupedFirings, Positions
from spd_tools.harvest.clock import StageClock
from spd_tools.harvest.exact_sums import N_LIMBS, carry
from spd_tools.harvest.examples import ExampleSketch
from spd_tools.harvest.hashing import logged_rows
from spd_tools.harvest.parallel import capped_bounds, in_order, n_threads, run_ranges, weighted_bounds
from spd_tools.harvest.sections import SectionWriter, section_file
from spd_tools.store.histogram import N_MAGNITUDES

_CHUNK = 1 << 21
"""Sparse entries that one thread produces before they are written."""

Kernel = Callable[[NDArray[Any], NDArray[np.int64], NDArray[np.int32], NDArray[Any], int, int], int]
"""(scratch row, lengths, out columns, out values, first component, last + 1) -> entries written"""


def write_segment(path: Path, buffer: FiringBuffer, clock: StageClock) -> None:
    """Write what the buffer took in since the last segment, and empty it."""
    with section_file(path) as out:
        with clock("examples"):
            for which in (0, 1):
                sketches = [layer.sketches[which] for layer in buffer.examples]
                _write_examples(out, sketches, buffer.n_components)
        with clock("grouping"):
            grouped, positions, totals = buffer.drain()
        _write_scalars(out, positions, len(grouped.position))
        out.append("firing_count", np.diff(grouped.indptr))
        with clock("sums"):
            _write_sums(out, grouped, positions, totals)
        with clock("co-firing"):
            _write_pairs(out, grouped)
        with clock("input tokens"):
            _write_inputs(out, grouped, positions, buffer.vocab_size)
        with clock("output tokens"):
            _write_outputs(out, grouped, positions, buffer.vocab_size)
        with clock("histogram"):
            _write_histogram(out, grouped)
        with clock("log"):
            _write_log(out, grouped, positions, buffer)


def _write_scalars(out: SectionWriter, positions: Positions, n_firings: int) -> None:
    scalars = [len(positions.row), int(positions.included.sum()), n_firings]
    out.append("scalars", np.asarray(scalars, np.int64))


def _write_examples(out: SectionWriter, sketches: list[ExampleSketch], n_components: int) -> None:
    lengths = np.zeros(n_components, np.int64)
    kind = sketches[0].kind
    for sketch in sketches:
        records = sketch.drain()
        lengths += np.bincount(records.component, minlength=n_components)
        for field in ("rank", "key", "row", "position", "windows"):
            out.append(f"{kind}/{field}", getattr(records, field))
    out.append(f"{kind}/indptr", np.concatenate([[0], np.cumsum(lengths)]))


def _write_sums(
    out: SectionWriter,
    grouped: GroupedFirings,
    positions: Positions,
    totals: dict[int, NDArray[np.int64]],
) -> None:
    """sums: [C, kinds, 3 (all tokens, firings, absolute at firings), limbs]."""
    n_components, n_kinds = len(grouped.indptr) - 1, len(grouped.values)
    at_firings = np.zeros((n_components, n_kinds, 2, N_LIMBS), np.int64)
    dropped = np.zeros(n_components, np.int64)
    run_ranges(
        lambda _, c0, c1: counting.sum_firings(
            grouped.indptr, grouped.position, grouped.values, positions.dropped, at_firings, dropped, c0, c1
        ),
        weighted_bounds(np.diff(grouped.indptr), n_threads()),
    )
    carry(at_firings.reshape(-1, N_LIMBS))
    everywhere = np.stack([totals.get(kind, at_firings[:, kind, 0]) for kind in range(n_kinds)], 1)
    out.append("sums", np.concatenate([everywhere[:, :, None], at_firings], 2))
    out.append("dropped", dropped)


def _write_sparse(
    out: SectionWriter,
    name: str,
    kernel: Kernel,
    sizes: NDArray[np.int64],
    row: tuple[int, type],
    columns: str,
    values: tuple[str, type],
) -> None:
    """Run a counting kernel over component ranges and append what it finds.

    Args:
        sizes: [C] most entries that each component can have.
        row: length and dtype of the kernel's scratch row.
        columns: name of the section of columns (int32).
        values: name and dtype of the section of values.
    """
    lengths = np.zeros(len(sizes), np.int64)

    def count(c0: int, c1: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
        size = int(sizes[c0:c1].sum())
        found_columns, found_values = np.empty(size, np.int32), np.empty(size, values[1])
        found = kernel(np.zeros(row[0], row[1]), lengths, found_columns, found_values, c0, c1)
        return found_columns[:found], found_values[:found]

    for found_columns, found_values in in_order(count, capped_bounds(sizes, _CHUNK)):
        out.append(f"{name}/{columns}", found_columns)
        out.append(f"{name}/{values[0]}", found_values)
    out.append(f"{name}/indptr", np.concatenate([[0], np.cumsum(lengths)]))


def _write_pairs(out: SectionWriter, grouped: GroupedFirings) -> None:
    n_components = len(grouped.indptr) - 1
    work = np.zeros(n_components, np.int64)
    args = (grouped.indptr, grouped.position, grouped.place, grouped.position_end)
    run_ranges(
        lambda _, c0, c1: counting.pair_work(*args, work, c0, c1),
        weighted_bounds(np.diff(grouped.indptr), n_threads()),
    )
    _write_sparse(
        out,
        "pairs",
        lambda row, lengths, partner, count, c0, c1: counting.count_pairs(
            *args, grouped.component_at, row, lengths, partner, count, c0, c1
        ),
        np.minimum(work, np.arange(n_components - 1, -1, -1)),
        (n_components, np.int32),
        "partner",
        ("count", np.int32),
    )


def _write_inputs(out: SectionWriter, grouped: GroupedFirings, positions: Positions, vocab_size: int) -> None:
    totals = np.bincount(positions.tokens[positions.included], minlength=vocab_size)
    out.append("vocabulary/input_count", totals.astype(np.int64))
    _write_sparse(
        out,
        "input",
        lambda row, lengths, token, count, c0, c1: counting.count_inputs(
            grouped.indptr, grouped.position, positions.tokens, row, lengths, token, count, c0, c1
        ),
        np.minimum(np.diff(grouped.indptr), vocab_size),
        (vocab_size, np.int32),
        "token",
        ("count", np.int32),
    )


def _write_outputs(out: SectionWriter, grouped: GroupedFirings, positions: Positions, vocab_size: int) -> None:
    q = positions.next_tokens
    totals = np.zeros(vocab_size, np.int64)
    counting.sum_masses(q.packed, totals)
    out.append("vocabulary/output_mass", totals)
    # The number of probabilities at a component's firings bounds the tokens that it can have.
    per_position = np.diff(q.indptr)
    work = np.zeros(len(grouped.indptr) - 1, np.int64)
    if len(per_position):
        sums = np.concatenate([[0], np.cumsum(per_position[grouped.position])])
        work = sums[grouped.indptr[1:]] - sums[grouped.indptr[:-1]]
    _write_sparse(
        out,
        "output",
        lambda row, lengths, token, mass, c0, c1: counting.count_outputs(
            grouped.indptr, grouped.position, q.indptr, q.packed, row, lengths, token, mass, c0, c1
        ),
        np.minimum(work, vocab_size),
        (vocab_size, np.int64),
        "token",
        ("mass", np.int64),
    )


def _write_histogram(out: SectionWriter, grouped: GroupedFirings) -> None:
    _write_sparse(
        out,
        "histogram",
        lambda row, lengths, bins, count, c0, c1: counting.count_histogram(
            grouped.indptr, grouped.values[-1], row, lengths, bins, count, c0, c1
        ),
        np.minimum(np.diff(grouped.indptr), 2 * N_MAGNITUDES),
        (2 * N_MAGNITUDES, np.int32),
        "bin",
        ("count", np.int32),
    )


def _write_log(out: SectionWriter, grouped: GroupedFirings, positions: Positions, buffer: FiringBuffer) -> None:
    config = buffer.config
    seq = config.seq_len
    row_logged = logged_rows(config.seed, config.log_share, positions.row)
    token_at = positions.row[:, None] * seq + np.arange(seq)
    token_at = np.where(row_logged[:, None], token_at, -1).reshape(-1)
    logged_tokens = int(positions.included[token_at >= 0].sum())
    out.append("log/rows", np.sort(positions.row[row_logged]))
    out.append("log/tokens", np.asarray([logged_tokens], np.int64))
    lengths = np.zeros(len(grouped.indptr) - 1, np.int64)
    run_ranges(
        lambda _, c0, c1: counting.count_logged(grouped.indptr, grouped.position, token_at, lengths, c0, c1),
        weighted_bounds(np.diff(grouped.indptr), n_threads()),
    )

    def copy(c0: int, c1: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        n = int(lengths[c0:c1].sum())
        tokens, values = np.empty(n, np.int64), np.empty((len(buffer.kinds), n), np.float32)
        counting.copy_logged(grouped.indptr, grouped.position, grouped.values, token_at, tokens, values, c0, c1)
        return tokens, values

    for tokens, values in in_order(copy, capped_bounds(lengths, _CHUNK)):
        out.append("log/token", tokens)
        for kind, column in enumerate(values):
            out.append(f"log/{kind}", column)
    out.append("log/indptr", np.concatenate([[0], np.cumsum(lengths)]))
