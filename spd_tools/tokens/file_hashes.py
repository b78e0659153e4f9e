"""Content hashes of local files; those of large files are remembered."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from spd_tools.errors import SpdToolsError
from spd_tools.files import file_sha256, write_json
from spd_tools.settings import Settings

REMEMBER_FROM = 1 << 26
"""Bytes from which a hash is worth remembering (hashing takes a second per gigabyte, in every worker)."""
SETTLED_NS = 2_000_000_000
"""A file changed more recently than this may change again within one tick of its clock."""


def content_hashes(files: list[Path]) -> list[str]:
    """sha256 of every file.

    Raises:
        SpdToolsError: naming a file that cannot be read.
    """
    return [_content_hash(file.resolve()) for file in files]


def _content_hash(path: Path) -> str:
    try:
        stat = path.stat()
        if stat.st_size < REMEMBER_FROM:
            return file_sha256(path)
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = _remembered().get(str(path))
        if isinstance(known, dict) and known.get("state") == state and isinstance(known.get("sha256"), str):
            return known["sha256"]
        digest = file_sha256(path)
    except OSError as error:
        raise SpdToolsError(f"{path} could not be read: {error.strerror}.") from error
    if time.time_ns() - stat.st_mtime_ns > SETTLED_NS:
        _remember(str(path), {"state": state, "sha256": digest})
    return digest


def _remember(path: str, entry: dict[str, Any]) -> None:
    # A folder that cannot be written, and two processes that write at once, cost no more than hashing again.
    with suppress(OSError, SpdToolsError):
        _memory().parent.mkdir(parents=True, exist_ok=True)
        write_json(_memory(), _remembered() | {path: entry})


def _memory() -> Path:
    return Settings.from_environment().tokens_dir / "file_hashes.json"


def _remembered() -> dict[str, Any]:
    try:
        document = json.loads(_memory().read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
