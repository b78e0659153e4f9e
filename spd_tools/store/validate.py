"""Full validation of a harvest's tables, for harvests that a stranger wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from spd_tools.errors import SpdToolsError
from spd_tools.store.schema import (
    CORRELATIONS_SCHEMA,
    TOKEN_STATS_SCHEMA,
    VOCABULARY_SCHEMA,
    Manifest,
    components_schema,
    examples_schema,
    firings_schema,
)


def check_tables(folder: Path, manifest: Manifest, origin: Path) -> None:
    """Check schemas, row counts and every offset of the tables in ``folder``.

    A checksum says nothing about a stranger's intent; an offset that leads outside its buffer would crash a reader.

    Raises:
        SpdToolsError: naming the table and ``origin``, the file that it came from.
    """
    kinds = manifest.decomposition.kinds
    n_components = sum(n for _, n in manifest.decomposition.layers)
    expected: dict[str, tuple[pa.Schema, int]] = {
        "examples.arrow": (examples_schema(kinds), n_components),
        "token_stats.arrow": (TOKEN_STATS_SCHEMA, n_components),
        "correlations.arrow": (CORRELATIONS_SCHEMA, n_components),
        "firings/log.arrow": (firings_schema(kinds), n_components),
        "vocabulary.arrow": (VOCABULARY_SCHEMA, manifest.decomposition.vocab_size),
    }
    for name, (schema, n_rows) in expected.items():
        _check_table(name, origin, schema, n_rows, lambda name=name: _validated_arrow(folder / name))
    _check_table(
        "components.parquet",
        origin,
        components_schema(kinds),
        n_components,
        lambda: _parquet_shape(folder / "components.parquet"),
    )


def _check_table(
    name: str, origin: Path, schema: pa.Schema, n_rows: int, shape: Callable[[], tuple[pa.Schema, int]]
) -> None:
    try:
        found, n_found = shape()
        right = found.equals(schema) and n_found == n_rows
    except (pa.ArrowException, ValueError, OSError):
        right = False
    if not right:
        raise SpdToolsError(f"{name} in {origin} is not a table of a harvest; nothing was unpacked.")


def _validated_arrow(path: Path) -> tuple[pa.Schema, int]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        n_rows = 0
        for at in range(reader.num_record_batches):
            batch = reader.get_batch(at)
            batch.validate(full=True)
            n_rows += batch.num_rows
        return reader.schema, n_rows


def _parquet_shape(path: Path) -> tuple[pa.Schema, int]:
    metadata = pq.read_metadata(path)
    return metadata.schema.to_arrow_schema(), metadata.num_rows
