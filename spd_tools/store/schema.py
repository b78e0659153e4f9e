"""The harvest on disk, version 1: which files there are and what stands in them.

``<SPD_OUT_DIR>/harvest/<run_id>/<harvest_id>/``

=========================  =====================================================================================
manifest.json              ``Manifest``; written last. Without it the harvest is unfinished and never picked.
tokens.npy                 [rows, seq] uint16 | int32: token ids of the harvested rows, in the order of the harvest
row_lengths.npy            [rows] int32: positions >= length are padding
row_ids.npy                [rows] int64: row numbers in the data set's token file
excluded.npy               [rows, seq] bool: positions that count nowhere; only where there are any
tokenizer.json             Hugging Face ``tokenizers`` file; only where the tokenizer could be read
components.parquet         ``components_schema``; one row per component, row groups of ROW_GROUP components
examples.arrow             ``EXAMPLES_SCHEMA``; one row per component
token_stats.arrow          ``TOKEN_STATS_SCHEMA``; one row per component
vocabulary.arrow           ``VOCABULARY_SCHEMA``; one row per token id
correlations.arrow         ``CORRELATIONS_SCHEMA``; one row per component
firings/log.arrow          ``firings_schema``; one row per component: the firing log
firings/rows.npy           [logged rows] int64: which rows of tokens.npy are logged, ascending
=========================  =====================================================================================

The .arrow files are uncompressed Arrow IPC files; one component is one row, and its lists are contiguous slices that
can be used without copying. A component's row never straddles record batches. All files depend only on the content
of the harvest: not on sharding, batch size, order, interruptions or time.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1
ROW_GROUP = 1024
"""Components per row group of components.parquet."""
BATCH_ENTRIES = 1 << 22
"""A record batch of an .arrow file is closed once it holds this many list entries (or ROW_GROUP components)."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HarvestConfig(_Record):
    """Everything about a harvest that is a choice; together with decomposition, data and world size it is its id."""

    n_batches: int
    """Global batches."""
    batch_size: int
    """Rows per batch."""
    seq_len: int
    threshold: float = 0.0
    """A component fires where its gating activation is strictly above this."""
    precision: Literal["f32", "bf16"] = "f32"
    p_min: float = 1e-3
    """Next-token probabilities below this count as zero; the dropped mass is kept per component."""
    n_uniform: int = 100
    """Uniform examples kept per component."""
    n_top: int = 100
    """Top examples kept per component."""
    window: int = 20
    """An example keeps activations of this many positions to each side."""
    log_share: float
    """Share of the rows (chosen by hash) whose firings are all logged."""
    seed: int = 0
    world_size: int = 1


class DecompositionInfo(_Record):
    """Which decomposition was harvested."""

    run_id: str
    reference: str
    fingerprint: str
    layers: list[tuple[str, int]]
    """(name, number of components), in flat-index order."""
    vocab_size: int
    gating_kind: str
    ranking_kind: str
    kinds: list[str]


class DataInfo(_Record):
    """Which rows were harvested."""

    source: str
    fingerprint: str
    """Fingerprint of the token file."""
    tokenizer: str | None


class Counts(_Record):
    """Sizes of the harvest."""

    n_rows: int
    n_tokens: int
    """Positions harvested (T): excluded ones and padding not counted."""
    n_firings: int
    n_pairs: int
    """Pairs i < j with n_ij > 0."""
    n_logged_rows: int
    n_logged_tokens: int


class FileInfo(_Record):
    """Checksum of one file."""

    bytes: int
    sha256: str


class Manifest(_Record):
    """manifest.json"""

    schema_version: Literal[1] = SCHEMA_VERSION
    harvest_id: str
    decomposition: DecompositionInfo
    data: DataInfo
    config: HarvestConfig
    counts: Counts
    files: dict[str, FileInfo]
    """Path below the harvest's folder -> size and sha256."""


def _list(value: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("item", value, nullable=False))


def components_schema(kinds: list[str]) -> pa.Schema:
    """components.parquet.

    ``sum/<kind>``: sum over all harvested tokens; ``firing_sum/<kind>``: over firings; ``abs_firing_sum/<kind>``: of
    absolute values over firings. ``effective_max``: 99.5th percentile of the absolute ranking activation at logged
    firings, null when none was logged. Histogram of the ranking activation at firings: see store.histogram.
    """
    fields: list[Any] = [("index", pa.int32()), ("layer", pa.string()), ("firing_count", pa.int64())]
    for kind in kinds:
        fields += [(f"{name}/{kind}", pa.float64()) for name in ("sum", "firing_sum", "abs_firing_sum")]
    fields += [
        ("dropped_output_mass", pa.float64()),
        ("histogram_bin", _list(pa.int16())),
        ("histogram_count", _list(pa.int64())),
        ("logged_firings", pa.int64()),
        ("effective_max", pa.float32()),
    ]
    return pa.schema(fields)


def examples_schema(kinds: list[str]) -> pa.Schema:
    """examples.arrow: uniform ones in the order of the sampling hash (so any prefix is a uniform sample), top ones by
    descending |ranking activation|.

    ``start`` is the position of the window's first activation; activations are null at excluded positions.
    """
    example = pa.struct(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
            pa.field("start", pa.int32(), nullable=False),
            *[pa.field(kind, pa.list_(pa.float32()), nullable=False) for kind in kinds],
        ]
    )
    return pa.schema([("uniform", _list(example)), ("top", _list(example))])


TOKEN_STATS_SCHEMA = pa.schema(
    [
        ("input_token", _list(pa.int32())),
        ("input_count", _list(pa.int64())),
        ("output_token", _list(pa.int32())),
        ("output_mass", _list(pa.float64())),
    ]
)
"""Ascending token ids, entries above zero only. ``output_mass`` is a multiple of 2**-33 (see harvest.firings)."""

VOCABULARY_SCHEMA = pa.schema([("input_count", pa.int64()), ("output_mass", pa.float64())])
"""Totals over all harvested tokens, fired or not."""

CORRELATIONS_SCHEMA = pa.schema([("partner", _list(pa.int32())), ("count", _list(pa.int64()))])
"""Ascending partners j != i with n_ij > 0; both directions of a pair are stored."""


def firings_schema(kinds: list[str]) -> pa.Schema:
    """firings/log.arrow: ``token`` = row * seq_len + position, ascending."""
    large = lambda value: pa.large_list(pa.field("item", value, nullable=False))  # noqa: E731
    return pa.schema([("token", large(pa.int64())), *[(kind, large(pa.float32())) for kind in kinds]])
