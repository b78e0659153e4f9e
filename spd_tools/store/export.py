"""A harvest in the layout that SPD's own tools write.

``DIR/activation_contexts/``

- ``config.json``: run, data and configuration of the harvest, and its number of tokens (``n_tokens``).
- ``summary.json``: {component_key: {"layer", "component_idx", "mean_ci"}}.
- ``components.jsonl``: one object per component, dead ones too, in flat-index order:
  ``component_key``, ``layer``, ``component_idx``; ``mean_ci``: mean gating activation over all tokens;
  ``activation_examples``: the uniform sample, each {"token_ids", "ci_values", "component_acts"} of equal length: the
  tokens of the stored window, the gating and the ranking activations there (null at excluded positions);
  ``input_token_pmi``, ``output_token_pmi``: {"top", "bottom"}, each a list of [token_id, pmi].

Beside it, sparse and exact:

- ``DIR/correlations.parquet``: component_key, partner_key, count (n_ij), firing_count, partner_firing_count (n_i, n_j);
  each pair with n_ij > 0 once, the component with the smaller flat index first.
- ``DIR/input_tokens.parquet``: component_key, token_id, count (I_cv), total (I_v);
  ``DIR/output_tokens.parquet``: component_key, token_id, mass (O_cv), total (O_v).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.files import write_json
from spd_tools.keys import ComponentKey
from spd_tools.store.columns import ArrowRows, list_parts
from spd_tools.store.folders import whole_folder
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import Example, Side
from spd_tools.store.schema import CORRELATIONS_SCHEMA, TOKEN_STATS_SCHEMA

_PMI_LIMIT = 40
"""Entries of each PMI list."""
_ROWS_PER_TABLE = 1 << 20
"""Entries that are in memory at once while a parquet file is written."""


def export(harvest: Harvest, folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Write a harvest in the SPD layout; the folder appears whole or not at all.

    Args:
        harvest: what to write.
        folder: must not exist yet.
        progress: called with (components written, all components).

    Raises:
        SpdToolsError: when the folder exists or cannot be written.
    """
    if folder.exists():
        raise SpdToolsError(f"{folder} exists already; choose another folder or remove it first.")
    with whole_folder(folder, folder.absolute().parent) as aside:
        contexts = aside / "activation_contexts"
        contexts.mkdir()
        write_json(contexts / "config.json", _config(harvest))
        write_json(contexts / "summary.json", _summary(harvest))
        _write_components(harvest, contexts / "components.jsonl", progress)
        _write_parquet(aside / "correlations.parquet", _correlations(harvest))
        _write_parquet(aside / "input_tokens.parquet", _tokens(harvest, "input"))
        _write_parquet(aside / "output_tokens.parquet", _tokens(harvest, "output"))


def _config(harvest: Harvest) -> dict[str, Any]:
    manifest = harvest.manifest
    return {
        "run_id": harvest.run_id,
        "harvest_id": harvest.harvest_id,
        "n_tokens": harvest.n_tokens,
        "decomposition": manifest.decomposition.model_dump(mode="json"),
        "data": manifest.data.model_dump(mode="json"),
        **manifest.config.model_dump(mode="json"),
    }


def _summary(harvest: Harvest) -> dict[str, Any]:
    return {str(key): _identity(harvest, key) for key in harvest.keys}


def _identity(harvest: Harvest, key: ComponentKey) -> dict[str, Any]:
    mean_ci = harvest.component(key).mean_activations[harvest.gating_kind]
    return {"layer": key.layer, "component_idx": key.index, "mean_ci": mean_ci}


def _write_components(harvest: Harvest, path: Path, progress: Callable[[int, int], None] | None) -> None:
    with path.open("x", encoding="utf-8") as file:
        for written, key in enumerate(harvest.keys, 1):
            json.dump(_component(harvest, key), file, allow_nan=False)
            file.write("\n")
            if progress is not None:
                progress(written, len(harvest.keys))


def _component(harvest: Harvest, key: ComponentKey) -> dict[str, Any]:
    config = harvest.manifest.config
    examples = harvest.examples(key, "uniform", limit=config.n_uniform, context=config.window)
    return {
        "component_key": str(key),
        **_identity(harvest, key),
        "activation_examples": [_example(harvest, example) for example in examples],
        "input_token_pmi": _pmi(harvest, key, "input"),
        "output_token_pmi": _pmi(harvest, key, "output"),
    }


def _example(harvest: Harvest, example: Example) -> dict[str, Any]:
    return {
        "token_ids": example.token_ids,
        "ci_values": example.activations[harvest.gating_kind],
        "component_acts": example.activations[harvest.ranking_kind],
    }


def _pmi(harvest: Harvest, key: ComponentKey, side: Side) -> dict[str, list[tuple[int, float]]]:
    lists = harvest.token_stats(key, side).lists("pmi", limit=_PMI_LIMIT)
    return {
        "top": [(score.token_id, score.pmi) for score in lists.top],
        "bottom": [(score.token_id, score.pmi) for score in lists.bottom],
    }


# --- parquet: slices of the store's mapped lists, a bounded number of entries at a time ---


def _write_parquet(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _entries(rows: ArrowRows, keys: str, values: str) -> Iterator[tuple[NDArray[np.int32], NDArray[Any], NDArray[Any]]]:
    """(component, key, value) of all entries of a list column, at most _ROWS_PER_TABLE at once; at least one piece."""
    empty = True
    for start, batch in rows.batches():
        key, offsets = list_parts(batch.column(keys))
        value, _ = list_parts(batch.column(values))
        for low in range(int(offsets[0]), int(offsets[-1]), _ROWS_PER_TABLE):
            high = min(low + _ROWS_PER_TABLE, int(offsets[-1]))
            component = start + np.searchsorted(offsets, np.arange(low, high), "right") - 1
            yield component.astype(np.int32), key[low:high], value[low:high]
            empty = False
    if empty:
        dtype = np.float64 if values == "output_mass" else np.int64
        yield np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, dtype)


def _named(index: NDArray[np.int32], names: pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(index, pa.int32()), names)


def _correlations(harvest: Harvest) -> Iterator[pa.Table]:
    rows = ArrowRows(harvest.folder / "correlations.arrow", CORRELATIONS_SCHEMA, len(harvest.keys))
    names = pa.array(list(map(str, harvest.keys)), pa.string())
    for component, partner, count in _entries(rows, "partner", "count"):
        once = component < partner
        i, j = component[once], partner[once]
        yield pa.table(
            {
                "component_key": _named(i, names),
                "partner_key": _named(j, names),
                "count": count[once],
                "firing_count": harvest.firing_counts[i],
                "partner_firing_count": harvest.firing_counts[j],
            }
        )


def _tokens(harvest: Harvest, side: Side) -> Iterator[pa.Table]:
    rows = ArrowRows(harvest.folder / "token_stats.arrow", TOKEN_STATS_SCHEMA, len(harvest.keys))
    names = pa.array(list(map(str, harvest.keys)), pa.string())
    totals = harvest.vocabulary(side)
    value_column, measure = ("input_count", "count") if side == "input" else ("output_mass", "mass")
    for component, token, value in _entries(rows, f"{side}_token", value_column):
        yield pa.table(
            {"component_key": _named(component, names), "token_id": token, measure: value, "total": totals[token]}
        )
