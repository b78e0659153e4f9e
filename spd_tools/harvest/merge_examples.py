"""Examples of all segments -> examples.arrow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spd_tools.harvest.parallel import in_order
from spd_tools.harvest.plan import HarvestPlan
from spd_tools.harvest.shards import Segments
from spd_tools.store.schema import ROW_GROUP, examples_schema
from spd_tools.store.writer import FileLog, arrow_file

_FIELDS = ["rank", "key", "row", "position", "windows"]


def merge_examples(log: FileLog, segments: Segments, plan: HarvestPlan, row_lengths: NDArray[np.int32]) -> None:
    """Keep each component's k smallest (rank, key) of all segments, in that order."""
    kinds = plan.decomposition.kinds
    schema = examples_schema(kinds)
    n = plan.n_components
    blocks = [(c0, min(c0 + ROW_GROUP, n)) for c0 in range(0, n, ROW_GROUP)]

    def block(c0: int, c1: int) -> pa.RecordBatch:
        lists = [_examples(segments, name, plan, row_lengths, schema, c0, c1) for name in ("uniform", "top")]
        return pa.record_batch(lists, schema)

    with arrow_file(log, "examples.arrow", schema) as sink:
        for batch in in_order(block, blocks):
            sink.write_batch(batch)


def _examples(
    segments: Segments,
    name: str,
    plan: HarvestPlan,
    row_lengths: NDArray[np.int32],
    schema: pa.Schema,
    c0: int,
    c1: int,
) -> pa.Array:
    kinds = plan.decomposition.kinds
    width = 2 * plan.config.window + 1
    k = plan.config.n_uniform if name == "uniform" else plan.config.n_top
    gathered = segments.gather(name, _FIELDS, c0, c1, width=len(kinds) * width)
    rank, key, row, position, windows = gathered.arrays
    component = np.concatenate(
        [np.empty(0, np.int64), *(np.repeat(np.arange(c1 - c0), np.diff(starts)) for starts in gathered.starts)]
    )
    order = np.lexsort((key, rank, component))
    component = component[order]
    starts = np.searchsorted(component, np.arange(c1 - c0 + 1))
    kept = np.arange(len(order)) - starts[component] < k
    order, component = order[kept], component[kept]
    offsets = np.searchsorted(component, np.arange(c1 - c0 + 1)).astype(np.int32)
    row, position = row[order], position[order]
    windows = windows.reshape(-1, len(kinds), width)[order]
    start = np.maximum(position - plan.config.window, 0).astype(np.int32)
    stop = np.minimum(position + plan.config.window + 1, row_lengths[row]).astype(np.int32)
    item: Any = schema.field(name).type.value_type
    columns = [pa.array(row), pa.array(position), pa.array(start)]
    columns += [_windows(windows[:, kind], position - plan.config.window, start, stop) for kind in range(len(kinds))]
    structs = pa.StructArray.from_arrays(columns, fields=list(item))
    return pa.ListArray.from_arrays(pa.array(offsets), structs, type=schema.field(name).type)


def _windows(
    values: NDArray[np.float32], first: NDArray[np.int32], start: NDArray[np.int32], stop: NDArray[np.int32]
) -> pa.Array:
    """Cut [n, 2 * window + 1] to the row's positions; what was excluded there is NaN and becomes null."""
    at = first[:, None] + np.arange(values.shape[1])
    inside = (at >= start[:, None]) & (at < stop[:, None])
    flat = values[inside]
    offsets = np.concatenate([[0], np.cumsum(stop - start)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, mask=np.isnan(flat)))
