"""A token file on disk, version 1.

``<SPD_OUT_DIR>/tokens/<fingerprint>/``

===================  ================================================================================
manifest.json        ``TokenManifest``
tokens.npy           [rows, seq] uint16 | int32; 0 behind a row's length
row_lengths.npy      [rows] int32: positions >= length are padding
excluded.npy         [rows, seq] bool: positions that count nowhere; only where there are any
tokenizer.json       Hugging Face ``tokenizers`` file that made it; absent for data that came tokenised
===================  ================================================================================

The folder gets its name when everything in it is on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from spd_tools.errors import SpdToolsError

MANIFEST = "manifest.json"
TOKENS = "tokens.npy"
ROW_LENGTHS = "row_lengths.npy"
EXCLUDED = "excluded.npy"
TOKENIZER = "tokenizer.json"


class TokenManifest(BaseModel):
    """manifest.json"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    fingerprint: str
    source: str
    """Where the documents came from: a path (the first one, should equal files lie elsewhere too) or a hub name."""
    request: dict[str, Any] | None
    """The DataConfig; None for rows that a program made."""
    seq_len: int
    n_rows: int
    n_tokens: int
    """Positions that are neither padding nor excluded."""
    max_token: int
    """Largest token id."""
    files: dict[str, int]
    """Name -> size in bytes of every other file."""


@dataclass(frozen=True)
class TokenDataset:
    """Rows of token ids, memory-mapped. A row's number is its place in ``tokens`` and never changes."""

    folder: Path
    fingerprint: str
    """Covers everything that determines the rows."""
    source: str
    n_rows: int
    seq_len: int
    n_tokens: int
    """Positions that are neither padding nor excluded."""
    max_token: int
    tokenizer_path: Path | None
    """The tokenizer.json that made the rows; None for data that came tokenised."""
    tokens: np.ndarray
    """[rows, seq] uint16 | int32"""
    row_lengths: np.ndarray
    """[rows] int32"""
    excluded: np.ndarray | None
    """[rows, seq] bool, or None when nothing is excluded"""

    @classmethod
    def open(cls, folder: Path) -> TokenDataset:
        """Map the files of a token file.

        Raises:
            SpdToolsError: when the folder is damaged or of a later version.
        """
        manifest = read_manifest(folder)
        arrays = {name: _mapped(folder / name) for name in manifest.files if name.endswith(".npy")}
        shape = (manifest.n_rows, manifest.seq_len)
        if arrays[TOKENS].shape != shape or arrays[ROW_LENGTHS].shape != shape[:1]:
            raise _damaged(folder, "its arrays do not have the shape that its manifest says")
        return cls(
            folder=folder,
            fingerprint=manifest.fingerprint,
            source=manifest.source,
            n_rows=manifest.n_rows,
            seq_len=manifest.seq_len,
            n_tokens=manifest.n_tokens,
            max_token=manifest.max_token,
            tokenizer_path=folder / TOKENIZER if TOKENIZER in manifest.files else None,
            tokens=arrays[TOKENS],
            row_lengths=arrays[ROW_LENGTHS],
            excluded=arrays.get(EXCLUDED),
        )


def read_manifest(folder: Path) -> TokenManifest:
    """The manifest of a token file whose files are all there in their sizes.

    Raises:
        SpdToolsError: when the folder is damaged or of a later version.
    """
    try:
        manifest = TokenManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read") from error
    except ValidationError as error:
        raise _damaged(folder, f"{MANIFEST} is not of version 1") from error
    for name in (TOKENS, ROW_LENGTHS):
        if name not in manifest.files:
            raise _damaged(folder, f"{MANIFEST} does not list {name}")
    for name, size in manifest.files.items():
        if name not in (TOKENS, ROW_LENGTHS, EXCLUDED, TOKENIZER):
            raise _damaged(folder, f"{MANIFEST} lists the unknown file {name!r}")
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise _damaged(folder, f"{name} is missing or has another size than it was written with")
    return manifest


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(path.parent, f"{path.name} is no array") from error


def _damaged(folder: Path, why: str) -> SpdToolsError:
    return SpdToolsError(f"The token file {folder} cannot be used: {why}; remove the folder and run again.")
