"""All ranks' segments -> the store. Memory is bounded by a setting, whatever the number and size of the segments."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.files import TEMPORARY_MARK, write_json
from spd_tools.harvest.exact_sums import N_LIMBS, to_float
from spd_tools.harvest.firings import MASS_UNIT_BITS
from spd_tools.harvest.merge_counts import added_up, block_cap, merge_correlations, merge_token_stats
from spd_tools.harvest.merge_examples import merge_examples
from spd_tools.harvest.merge_log import merge_log
from spd_tools.harvest.plan import HarvestPlan
from spd_tools.harvest.rows import HarvestRows
from spd_tools.harvest.shards import Segments, open_segments
from spd_tools.store.histogram import N_MAGNITUDES
from spd_tools.store.schema import (
    ROW_GROUP,
    VOCABULARY_SCHEMA,
    Counts,
    Manifest,
    components_schema,
)
from spd_tools.store.writer import FileLog, arrow_file, write_npy

_ROWS_AT_ONCE = 4096

OnStep = Callable[[str], None]
"""Called with the name of each file before it is written."""


def merge_shards(
    plan: HarvestPlan, rows: HarvestRows, *, memory_bytes: int, on_step: OnStep = lambda name: None
) -> Manifest:
    """Write the store, its manifest last, then remove the shards.

    Args:
        plan: the harvest's plan.
        rows: the same rows as the workers had.
        memory_bytes: bound on the merge's buffers.
        on_step: progress.

    Raises:
        SpdToolsError: when ranks are missing, unfinished, doubled or disagree, a segment is torn, or the disk is full.
    """
    segments = open_segments(plan.folder, plan)
    log = FileLog(plan.folder)
    n_rows, n_tokens, n_firings = (int(x) for x in segments.total("scalars"))
    if n_rows != len(rows):
        raise SpdToolsError(
            f"The ranks of harvest {plan.harvest_id} counted {n_rows} rows instead of {len(rows)}; remove the harvest "
            "with `spd-tools runs remove` and harvest again."
        )
    cap = block_cap(memory_bytes)
    on_step("tokens")
    row_lengths = _write_rows(log, rows)
    on_step("examples")
    merge_examples(log, segments, plan, row_lengths)
    on_step("token statistics")
    merge_token_stats(log, segments, plan.n_components, plan.decomposition.vocab_size, cap)
    _write_vocabulary(log, segments)
    on_step("correlations")
    n_pairs = merge_correlations(log, segments, plan.n_components, cap)
    on_step("firing log")
    logged, effective = merge_log(log, segments, plan, cap)
    on_step("components")
    _write_components(log, segments, plan, logged, effective, cap)
    manifest = Manifest(
        harvest_id=plan.harvest_id,
        decomposition=plan.decomposition,
        data=plan.data,
        config=plan.config,
        counts=Counts(
            n_rows=n_rows,
            n_tokens=n_tokens,
            n_firings=n_firings,
            n_pairs=n_pairs,
            n_logged_rows=len(segments.joined("log/rows")),
            n_logged_tokens=int(segments.total("log/tokens")[0]),
        ),
        files=log.files,
    )
    write_json(plan.folder / "manifest.json", manifest.model_dump(mode="json"))
    clean_up(plan.folder)
    return manifest


def clean_up(folder: Path) -> None:
    """Remove what a finished harvest no longer needs."""
    shutil.rmtree(folder / "shards", ignore_errors=True)
    (folder / "plan.json").unlink(missing_ok=True)
    for path in folder.rglob(f".*{TEMPORARY_MARK}*"):
        path.unlink(missing_ok=True)


def _write_rows(log: FileLog, rows: HarvestRows) -> NDArray[np.int32]:
    """tokens.npy, row_lengths.npy, row_ids.npy, excluded.npy, tokenizer.json; returns the row lengths."""
    n, seq, dataset = len(rows), rows.dataset.seq_len, rows.dataset
    lengths = np.empty(n, np.int32)

    def pieces() -> Iterator[NDArray[np.int32]]:
        for start in range(0, n, _ROWS_AT_ONCE):
            tokens, found, _ = rows.take(np.arange(start, min(start + _ROWS_AT_ONCE, n)))
            lengths[start : start + len(found)] = found
            yield tokens

    write_npy(log, "tokens.npy", dataset.tokens.dtype, (n, seq), pieces())
    write_npy(log, "row_lengths.npy", np.int32, (n,), iter([lengths]))
    write_npy(log, "row_ids.npy", np.int64, (n,), iter([rows.row_ids]))
    if dataset.excluded is not None:
        excluded = (
            rows.take(np.arange(start, min(start + _ROWS_AT_ONCE, n)))[2] for start in range(0, n, _ROWS_AT_ONCE)
        )
        write_npy(log, "excluded.npy", np.bool_, (n, seq), excluded)
    tokenizer = log.folder / "tokenizer.json"
    if tokenizer.exists():
        content = tokenizer.read_bytes()
        with log.open(tokenizer.name) as file:
            file.write(content)
    return lengths


def _write_vocabulary(log: FileLog, segments: Segments) -> None:
    columns = [
        pa.array(segments.total("vocabulary/input_count")),
        pa.array(segments.total("vocabulary/output_mass") / 2.0**MASS_UNIT_BITS),
    ]
    with arrow_file(log, "vocabulary.arrow", VOCABULARY_SCHEMA) as sink:
        sink.write_batch(pa.record_batch(columns, VOCABULARY_SCHEMA))


def _write_components(
    log: FileLog,
    segments: Segments,
    plan: HarvestPlan,
    logged: NDArray[np.int64],
    effective: NDArray[np.float32],
    cap: int,
) -> None:
    kinds, n = plan.decomposition.kinds, plan.n_components
    layers = [name for name, count in plan.decomposition.layers for _ in range(count)]
    columns: dict[str, pa.Array] = {
        "index": pa.array(np.arange(n, dtype=np.int32)),
        "layer": pa.array(layers, pa.string()),
        "firing_count": pa.array(segments.total("firing_count")),
    }
    sums = to_float(segments.total("sums").reshape(n, len(kinds), 3, N_LIMBS))
    for at, kind in enumerate(kinds):
        for which, name in enumerate(("sum", "firing_sum", "abs_firing_sum")):
            columns[f"{name}/{kind}"] = pa.array(sums[:, at, which])
    columns["dropped_output_mass"] = pa.array(segments.total("dropped") / 2.0**MASS_UNIT_BITS)
    columns["histogram_bin"], columns["histogram_count"] = _histograms(segments, n, cap)
    columns["logged_firings"] = pa.array(logged)
    columns["effective_max"] = pa.array(effective, mask=np.isnan(effective))
    schema = components_schema(kinds)
    table = pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema)
    with log.open("components.parquet") as file:
        pq.write_table(table, file, row_group_size=ROW_GROUP)


def _histograms(segments: Segments, n: int, cap: int) -> tuple[pa.Array, pa.Array]:
    blocks = list(added_up(segments, "histogram", ("bin", "count"), n, 2 * N_MAGNITUDES, cap))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([block.lengths for block in blocks]))]).astype(np.int32)
    bins = np.concatenate([block.columns for block in blocks]) - N_MAGNITUDES
    counts = np.concatenate([block.values for block in blocks])
    return (
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(bins.astype(np.int16))),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(counts)),
    )
