"""Logged firings of all segments -> firings/log.arrow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spd_tools.harvest.merging import interleave, unsorted_rows
from spd_tools.harvest.parallel import capped_bounds, in_order
from spd_tools.harvest.plan import HarvestPlan
from spd_tools.harvest.shards import Segments
from spd_tools.store.histogram import effective_max
from spd_tools.store.schema import firings_schema
from spd_tools.store.writer import FileLog, ListRows, arrow_file, write_npy


def merge_log(
    log: FileLog, segments: Segments, plan: HarvestPlan, cap: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Write the log; returns per component the number of logged firings and the effective maximum (NaN: none)."""
    kinds = plan.decomposition.kinds
    schema = firings_schema(kinds)
    logged = segments.lengths("log", plan.n_components)
    effective = np.full(plan.n_components, np.nan, np.float32)

    def block(c0: int, c1: int) -> list[NDArray[np.generic]]:
        columns = _sorted_columns(segments, kinds, c0, c1)
        starts = np.concatenate([[0], np.cumsum(logged[c0:c1])])
        for c in range(c0, c1):
            most = effective_max(columns[-1][starts[c - c0] : starts[c - c0 + 1]].view(np.float32))
            if most is not None:
                effective[c] = most
        return columns

    with arrow_file(log, "firings/log.arrow", schema) as sink:
        rows = ListRows(sink, schema, {"log": ["token", *kinds]})
        bounds = capped_bounds(logged, cap)
        for (c0, c1), columns in zip(bounds, in_order(block, bounds), strict=True):
            rows.add({"log": logged[c0:c1]}, dict(zip(["token", *kinds], columns, strict=True)))
        rows.finish()
    row_numbers = np.sort(segments.joined("log/rows"))
    write_npy(log, "firings/rows.npy", np.int64, row_numbers.shape, iter([row_numbers]))
    return logged, effective


def _sorted_columns(segments: Segments, kinds: list[str], c0: int, c1: int) -> list[NDArray[np.generic]]:
    """Token and values of components c0..c1-1, each component's firings by ascending token."""
    gathered = segments.gather("log", ["token", *(str(kind) for kind in range(len(kinds)))], c0, c1)
    indptr = np.zeros(c1 - c0 + 1, np.int64)
    columns: list[NDArray[np.generic]] = []
    for source in gathered.arrays:
        out = np.empty_like(source)
        interleave(gathered.starts, source, out, indptr)
        columns.append(out)
    flags = np.zeros(c1 - c0, np.bool_)
    unsorted_rows(indptr, columns[0], flags)
    for c in np.flatnonzero(flags).tolist():
        piece = slice(int(indptr[c]), int(indptr[c + 1]))
        order = np.argsort(columns[0][piece], kind="stable")
        for column in columns:
            column[piece] = column[piece][order]
    return columns
