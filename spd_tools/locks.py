"""Locks between processes, held by a file: the kernel lets go of one however its process ends.

``flock``, which Linux passes on to the server of an NFS, so that hosts that share a folder share its locks.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from spd_tools.errors import SpdToolsError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until nobody else holds a lock, and hold it.

    Raises:
        SpdToolsError: when the file cannot be written, or its file system knows no locks.
    """
    with open_lock(path) as lock:
        take_lock(lock.fileno(), path)
        yield


def open_lock(path: Path) -> IO[bytes]:
    """A lock's file, made if it is missing; nothing is locked yet.

    Raises:
        SpdToolsError: when it cannot be written.
    """
    try:
        return path.open("ab")
    except OSError as error:
        raise SpdToolsError(f"{path} cannot be written: {error.strerror}; see to its folder.") from error


def take_lock(descriptor: int, path: Path) -> None:
    """Wait for a lock.

    Raises:
        SpdToolsError: when the file system knows no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise _no_locks(path, error) from error


def try_lock(descriptor: int, path: Path) -> bool:
    """Take a lock if nobody else holds it; whether it was taken.

    Raises:
        SpdToolsError: when the file system knows no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _no_locks(path, error) from error
    return True


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock; readers may ask at the same time."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _no_locks(path: Path, error: OSError) -> SpdToolsError:
    return SpdToolsError(
        f"{path} cannot be locked ({error.strerror}); have the file system mounted with locks (Lustre: flock), or "
        "choose another SPD_OUT_DIR."
    )
