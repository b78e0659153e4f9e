"""results.jsonl: interpretations in the SPD layout, one JSON object per line.

Lines are only ever added, whole; where a component was interpreted again, its last line counts. Fields:

``component_key``, ``layer``, ``component_idx``; ``label`` (a few words), ``input_view``, ``output_view``,
``confidence``, ``verdict``, ``reasoning``; ``model`` (that answered), ``model_asked``, ``prompt``, ``harvest_id``,
``call_hash`` (in the ledger); ``label_id`` (in the annotations) and ``created``.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from spd_tools.annotations import LabelRecord
from spd_tools.errors import SpdToolsError
from spd_tools.files import sync_folder
from spd_tools.interpret.provenance import Provenance, reasoning_of

_BLOCK = 1 << 16


class ResultsFile:
    """A results.jsonl, which need not exist yet. Many processes may add to it at once."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            SpdToolsError: when the file holds something else.
        """
        self.path = path
        self._known = self._label_ids()

    def add(self, label: LabelRecord, provenance: Provenance) -> None:
        """Append a label's line, unless it is there.

        Raises:
            SpdToolsError: when the file cannot be written.
        """
        if label.id in self._known:
            return
        line = json.dumps(_row(label, provenance), allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _append(self.path, line.encode())
        except OSError as error:
            raise SpdToolsError(
                f"Could not write {self.path}: {error.strerror}; free space, then run again."
            ) from error
        self._known.add(label.id)

    def _label_ids(self) -> set[str]:
        """Ids of the labels that have a line."""
        try:
            with self.path.open("rb") as lines:
                # A last line without an end was being written when its process was killed.
                whole = (line for line in lines if line.endswith(b"\n"))
                return {self._label_id(number, line) for number, line in enumerate(whole, 1)}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise SpdToolsError(f"Could not read {self.path}: {error.strerror}; check it and run again.") from error

    def _label_id(self, number: int, line: bytes) -> str:
        try:
            return json.loads(line)["label_id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SpdToolsError(
                f"Line {number} of {self.path} is no interpretation of ours; move the file away and run again."
            ) from None


def _row(label: LabelRecord, provenance: Provenance) -> dict[str, Any]:
    return {
        "component_key": str(label.key),
        "layer": label.key.layer,
        "component_idx": label.key.index,
        "label": provenance.label,
        "input_view": label.input_view,
        "output_view": label.output_view,
        "confidence": label.confidence,
        "verdict": provenance.verdict,
        "reasoning": reasoning_of(label),
        "model": label.author,
        "model_asked": provenance.asked,
        "prompt": provenance.prompt,
        "harvest_id": provenance.harvest_id,
        "call_hash": provenance.call,
        "label_id": label.id,
        "created": label.created,
    }


def _append(path: Path, line: bytes) -> None:
    """Add a line durably; what a killed process left of one is cut off first."""
    is_new = not path.exists()
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        end = _end_of_lines(fd)
        os.ftruncate(fd, end)
        written = 0
        while written < len(line):
            written += os.pwrite(fd, line[written:], end + written)
        os.fsync(fd)
    finally:
        os.close(fd)
    if is_new:
        sync_folder(path.parent)


def _end_of_lines(fd: int) -> int:
    """Where the last whole line ends."""
    end = os.fstat(fd).st_size
    while end:
        start = max(0, end - _BLOCK)
        at = os.pread(fd, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
