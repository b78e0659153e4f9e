"""Streaming writers for the store's files: what they write depends on the content, not on how it is handed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spd_tools.files import atomic_file
from spd_tools.store.schema import BATCH_ENTRIES, ROW_GROUP, FileInfo


class FileLog:
    """Collects size and checksum of every file of a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, FileInfo] = {}

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Write a file of the store atomically."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        with atomic_file(path, checksum=True) as file:
            yield file
        self.files[name] = FileInfo(bytes=file.size, sha256=file.sha256)


def write_npy(log: FileLog, name: str, dtype: Any, shape: tuple[int, ...], pieces: Iterator[NDArray[Any]]) -> None:
    """Write an .npy file piece by piece along the first axis."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with log.open(name) as file:
        np.lib.format.write_array_header_2_0(file, header)
        rows = 0
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, dtype))
            rows += len(piece)
        assert rows == shape[0], f"{name}: {rows} rows instead of {shape[0]}"


class _Sink(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None: ...


@contextmanager
def arrow_file(log: FileLog, name: str, schema: pa.Schema) -> Iterator[_Sink]:
    """Write an Arrow IPC file batch by batch."""
    with log.open(name) as file, pa.ipc.new_file(file, schema) as writer:
        yield writer


class ListRows:
    """Rows of list columns, regrouped into record batches whose borders depend on the rows only.

    Columns that share a name before the slash share their offsets; here each group of columns has its own lengths.
    """

    def __init__(self, sink: _Sink, schema: pa.Schema, groups: Mapping[str, list[str]]) -> None:
        """Begin.

        Args:
            sink: takes the batches.
            schema: list columns.
            groups: group -> its columns, which have equal list lengths.
        """
        self._sink = sink
        self._schema = schema
        self._groups = groups
        self._lengths: dict[str, NDArray[np.int64]] = {group: np.empty(0, np.int64) for group in groups}
        self._values: dict[str, list[NDArray[Any]]] = {column: [] for columns in groups.values() for column in columns}

    def add(self, lengths: Mapping[str, NDArray[np.int64]], values: Mapping[str, NDArray[Any]]) -> None:
        """Append rows: per group [rows] list lengths, per column the lists one after the other."""
        for group in self._groups:
            self._lengths[group] = np.concatenate([self._lengths[group], lengths[group]])
        for column, pieces in self._values.items():
            pieces.append(values[column])
        self._emit(final=False)

    def finish(self) -> None:
        """Write what is left."""
        self._emit(final=True)

    def _emit(self, *, final: bool) -> None:
        ends = np.cumsum(sum(self._lengths.values()))
        start = 0
        while start < len(ends):
            base = int(ends[start - 1]) if start else 0
            # A batch ends with the row that fills it, or with its ROW_GROUP-th row.
            stop = min(int(np.searchsorted(ends, base + BATCH_ENTRIES)) + 1, start + ROW_GROUP)
            if stop > len(ends):
                if not final:
                    break
                stop = len(ends)
            self._write(start, stop)
            start = stop
        self._drop(start)

    def _write(self, start: int, stop: int) -> None:
        columns: dict[str, pa.Array] = {}
        for group, names in self._groups.items():
            lengths = self._lengths[group]
            first, n = int(lengths[:start].sum()), int(lengths[start:stop].sum())
            offsets = np.concatenate([[0], np.cumsum(lengths[start:stop])])
            for name in names:
                columns[name] = self._list(name, offsets, self._slice(name, first, first + n))
        self._sink.write_batch(pa.record_batch([columns[name] for name in self._schema.names], self._schema))

    def _list(self, name: str, offsets: NDArray[np.int64], values: NDArray[Any]) -> pa.Array:
        type_ = self._schema.field(name).type
        large = pa.types.is_large_list(type_)
        array = pa.array(values, type_.value_type)
        cls = pa.LargeListArray if large else pa.ListArray
        return cls.from_arrays(pa.array(offsets, pa.int64() if large else pa.int32()), array, type=type_)

    def _slice(self, name: str, start: int, stop: int) -> NDArray[Any]:
        pieces = self._values[name]
        if len(pieces) > 1:
            pieces[:] = [np.concatenate(pieces)]
        return pieces[0][start:stop]

    def _drop(self, rows: int) -> None:
        if rows == 0:
            return
        for group, names in self._groups.items():
            n = int(self._lengths[group][:rows].sum())
            self._lengths[group] = self._lengths[group][rows:]
            for name in names:
                pieces = self._values[name]
                pieces[:] = [self._slice(name, n, sum(map(len, pieces))).copy()]
