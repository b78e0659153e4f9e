"""Files that appear whole or not at all: written aside, fsynced, renamed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spd_tools.errors import SpdToolsError

TEMPORARY_MARK = ".partial-"
"""Part of the name of every file that is still being written; readers never look at those."""
_GATHERED = 1 << 18


class _HashingFile(io.RawIOBase):
    """Keeps size and checksum of what goes through it; small pieces are gathered before they are written."""

    def __init__(self, path: Path, *, checksum: bool) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._hash = hashlib.sha256() if checksum else None
        self._pending = bytearray()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        view = memoryview(data).cast("B")
        if len(self._pending) + len(view) <= _GATHERED:
            self._pending += view
        else:
            self._write_out()
            self._put(view)
        self.size += len(view)
        return len(view)

    def _write_out(self) -> None:
        pending, self._pending = self._pending, bytearray()
        self._put(memoryview(pending))

    def _put(self, view: memoryview) -> None:
        if self._hash is not None:
            self._hash.update(view)
        written = 0
        while written < len(view):
            written += os.write(self._fd, view[written : written + (1 << 24)])

    def tell(self) -> int:
        return self.size

    @property
    def sha256(self) -> str:
        """Of everything written before ``sync``."""
        assert self._hash is not None, "opened without checksum"
        return self._hash.hexdigest()

    def sync(self) -> None:
        """Write what is pending and make it durable."""
        self._write_out()
        os.fsync(self._fd)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


@contextmanager
def atomic_file(path: Path, *, checksum: bool = False) -> Iterator[_HashingFile]:
    """Open ``path`` for writing; it gets its name when the block ends without an exception.

    Yields a binary file with ``size``, and with ``sha256`` once the block has ended if ``checksum`` is asked for.

    Raises:
        SpdToolsError: when the disk is full or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        file = _HashingFile(aside, checksum=checksum)
        try:
            yield file
            file.sync()
        finally:
            file.close()
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise SpdToolsError(
            f"Could not write {path}: {error.strerror}; free space or choose another SPD_OUT_DIR, then run again."
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file atomically."""
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document atomically, with sorted keys: equal documents are equal files."""
    write_bytes(path, (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
