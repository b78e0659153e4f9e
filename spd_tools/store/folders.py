"""Folders that appear whole or not at all, and disappear at once."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spd_tools.errors import SpdToolsError
from spd_tools.files import TEMPORARY_MARK, sync_folder


def _aside(folder: Path, workshop: Path) -> Path:
    return workshop / f".{folder.name}{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}"


@contextmanager
def whole_folder(folder: Path, workshop: Path) -> Iterator[Path]:
    """Yield a new folder in ``workshop`` (same file system) that becomes ``folder`` when the block ends well.

    Everything in it is synced before. If the block raises, it is removed.

    Raises:
        SpdToolsError: when something cannot be written, or ``folder`` has appeared meanwhile.
    """
    aside = _aside(folder, workshop)
    try:
        aside.mkdir(parents=True)
        yield aside
        for path in [*aside.rglob("*"), aside]:
            sync_folder(path)
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise SpdToolsError(
            f"Could not write {folder}: {error.strerror}; free space or choose another place."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_folder(folder: Path, workshop: Path) -> None:
    """Remove a folder: it disappears at once (into ``workshop``, same file system), then its files are deleted.

    Raises:
        SpdToolsError: when it cannot be moved or deleted.
    """
    aside = _aside(folder, workshop)
    try:
        folder.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise SpdToolsError(f"Could not remove {folder}: {error.strerror}.") from error
