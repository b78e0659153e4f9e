"""One file of named arrays, written in pieces and read in slices: what segments are made of.

Layout: the pieces one after another, 8-byte aligned, then a JSON index, then its length (8 bytes little-endian) and the
magic. The index gives each section's dtype and the (offset, entries) of its pieces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.files import atomic_file

_MAGIC = b"SPDSECT1"


class _Sink(Protocol):
    size: int

    def write(self, data: Any) -> int: ...


class SectionWriter:
    """Appends pieces to named one-dimensional sections."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink
        self._index: dict[str, dict[str, Any]] = {}

    def append(self, name: str, piece: NDArray[Any]) -> None:
        """Add entries to the end of a section (flattened)."""
        piece = np.ascontiguousarray(piece).reshape(-1)
        section = self._index.setdefault(name, {"dtype": piece.dtype.str, "pieces": []})
        assert section["dtype"] == piece.dtype.str, f"{name}: {section['dtype']} and {piece.dtype.str}"
        if len(piece):
            section["pieces"].append([self._sink.size, len(piece)])
            self._sink.write(piece)
            self._sink.write(b"\0" * (-self._sink.size % 8))

    def finish(self) -> None:
        """Write the index."""
        index = json.dumps(self._index, sort_keys=True).encode()
        self._sink.write(index)
        self._sink.write(len(index).to_bytes(8, "little") + _MAGIC)


@contextmanager
def section_file(path: Path) -> Iterator[SectionWriter]:
    """Write a file of sections atomically."""
    with atomic_file(path) as sink:
        writer = SectionWriter(sink)
        yield writer
        writer.finish()


class SectionReader:
    """Memory-mapped sections."""

    def __init__(self, path: Path) -> None:
        """Open a finished file.

        Raises:
            SpdToolsError: when it is missing, torn or something else.
        """
        broken = SpdToolsError(
            f"{path} is torn or is no segment of a harvest; "
            "remove its harvest with `spd-tools runs remove` and harvest again."
        )
        try:
            self._bytes = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise broken from error
        tail = bytes(self._bytes[-16:])
        length = int.from_bytes(tail[:8], "little")
        if tail[8:] != _MAGIC or length > len(self._bytes) - 16:
            raise broken
        self._index: dict[str, dict[str, Any]] = json.loads(bytes(self._bytes[-16 - length : -16]))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Entries start..stop-1 of a section: a view where they lie in one piece, else a copy."""
        section = self._index[name]
        dtype = np.dtype(section["dtype"])
        found: list[NDArray[Any]] = []
        first = 0
        for offset, count in section["pieces"]:
            a, b = max(start, first), first + count if stop is None else min(stop, first + count)
            if a < b:
                begin = offset + (a - first) * dtype.itemsize
                found.append(self._bytes[begin : begin + (b - a) * dtype.itemsize].view(dtype))
            first += count
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.empty(0, dtype)
