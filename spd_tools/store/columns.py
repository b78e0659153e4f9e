"""Files of one row per component, opened without reading them: a component's lists are slices of the mapped file."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError


def unreadable(path: Path, what: str) -> SpdToolsError:
    """The one sentence for a file of the right size with the wrong content."""
    return SpdToolsError(f"{path} is torn or foreign ({what}); restore it or remove the folder and harvest again.")


def first_line(error: Exception) -> str:
    """A library's message, fit to stand inside a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def map_array(path: Path, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> NDArray[Any]:
    """Memory-map a .npy file, read-only; a plain array, as every slice of a ``np.memmap`` costs microseconds.

    Raises:
        SpdToolsError: when it is none or has another shape or type.
    """
    try:
        # numpy cannot map what has no bytes (a log of no rows).
        array = np.load(path, mmap_mode="r" if 0 not in shape else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, first_line(error)) from None
    if array.shape != shape or array.dtype.name not in dtypes:
        found = f"it is {array.dtype.name} {array.shape}, expected {' or '.join(dtypes)} {shape}"
        raise unreadable(path, found)
    return np.asarray(array)


def numbers_of(array: pa.Array) -> NDArray[Any]:
    """A primitive array without copying; what stands at nulls is undefined. (``to_numpy`` would import pandas.)"""
    dtype = np.dtype(array.type.to_pandas_dtype())
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype, len(array), array.offset * dtype.itemsize)


def numbers_or_nan(array: pa.Array) -> NDArray[Any]:
    """A copy of a floating array, NaN at nulls."""
    values = numbers_of(array).copy()
    if array.null_count:
        first = array.offset // 8
        bits = np.frombuffer(array.buffers()[0], np.uint8)[first : (array.offset + len(array) + 7) // 8]
        valid = np.unpackbits(bits, bitorder="little")[array.offset - 8 * first :][: len(array)]
        values[valid == 0] = np.nan
    return values


def list_parts(column: pa.Array) -> tuple[NDArray[Any], NDArray[Any]]:
    """(values, offsets) of a list column of plain numbers, uncopied; row r is values[offsets[r]:offsets[r + 1]]."""
    assert isinstance(column, pa.ListArray | pa.LargeListArray)
    return numbers_of(column.values), numbers_of(column.offsets)


def find_in_lists(
    values: NDArray[Any], offsets: NDArray[Any], wanted: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(list, entry) for each list that holds ``wanted``: a binary search in all ascending lists at once."""
    low, high = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    end = high
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        below = (low < high) & (values[np.minimum(middle, len(values) - 1)] < wanted)
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    lists = np.flatnonzero(low < end)
    lists = lists[values[low[lists]] == wanted]
    return lists, low[lists]


class ArrowRows:
    """An uncompressed Arrow IPC file, memory-mapped, addressed by row. Immutable, so many threads may read it.

    Raises:
        SpdToolsError: when the file is torn, or has another schema or number of rows.
    """

    def __init__(self, path: Path, schema: pa.Schema, n_rows: int) -> None:
        self.path = path
        # The batches hold no data, only where in the mapped file their columns lie.
        self._batches = _map_batches(path, schema)
        sizes = [batch.num_rows for batch in self._batches]
        _check_rows(path, sum(sizes), n_rows)
        self._starts = _starts(sizes)

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(first row, record batch), in order."""
        return zip(self._starts, self._batches, strict=True)

    def locate(self, row: int) -> tuple[pa.RecordBatch, int]:
        """The record batch that holds a row, and the row's place in it."""
        at = bisect.bisect_right(self._starts, row) - 1
        return self._batches[at], row - self._starts[at]

    def numbers(self, row: int, column: str) -> NDArray[Any]:
        """One row's list of numbers, a read-only view of the mapped file."""
        batch, at = self.locate(row)
        values, offsets = list_parts(batch.column(column))
        return values[offsets[at] : offsets[at + 1]]

    def whole(self, column: str) -> NDArray[Any]:
        """A column of plain numbers, all rows."""
        return np.concatenate([numbers_of(batch.column(column)) for _, batch in self.batches()])


class ComponentTable:
    """components.parquet: one row by its row group, or whole columns; for many threads.

    Raises:
        SpdToolsError: when the file is torn, or has another schema or number of rows.
    """

    def __init__(self, path: Path, schema: pa.Schema, n_rows: int) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
            found = self._file.schema_arrow
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, first_line(error)) from None
        _check_schema(path, found, schema)
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        _check_rows(path, sum(sizes), n_rows)
        self._starts = _starts(sizes)
        # A parquet reader serves one thread at a time.
        self._lock = threading.Lock()
        self._last_group: tuple[int, pa.Table] | None = None

    def row(self, row: int) -> dict[str, Any]:
        """One component's row as Python values."""
        group = bisect.bisect_right(self._starts, row) - 1
        with self._lock:
            if self._last_group is None or self._last_group[0] != group:
                table = self._read(lambda: self._file.read_row_group(group, use_threads=False))
                self._last_group = (group, table)
            table = self._last_group[1]
        return table.slice(row - self._starts[group], 1).to_pylist()[0]

    def columns(self, names: list[str]) -> pa.Table:
        """Whole columns."""
        with self._lock:
            return self._read(lambda: self._file.read(columns=names, use_threads=False))

    def _read(self, read: Callable[[], pa.Table]) -> pa.Table:
        try:
            return read()
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.path, first_line(error)) from None


def _map_batches(path: Path, schema: pa.Schema) -> list[pa.RecordBatch]:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
        _check_schema(path, reader.schema, schema)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate()
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, first_line(error)) from None
    return batches


def _check_schema(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    if not found.equals(expected):
        raise unreadable(path, f"its columns are {', '.join(found.names)} or have other types than they should")


def _check_rows(path: Path, found: int, expected: int) -> None:
    if found != expected:
        raise unreadable(path, f"it has {found:,} rows, expected {expected:,}")


def _starts(sizes: list[int]) -> list[int]:
    """First row of each part."""
    return [0, *np.cumsum(sizes).tolist()][:-1]
