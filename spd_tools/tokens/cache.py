"""Token files, made once: folders named by fingerprint, one lock file beside each."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spd_tools.errors import SpdToolsError
from spd_tools.files import TEMPORARY_MARK, sync_folder, write_bytes, write_json
from spd_tools.settings import Settings
from spd_tools.tokens.dataset import (
    EXCLUDED,
    MANIFEST,
    ROW_LENGTHS,
    TOKENIZER,
    TOKENS,
    TokenDataset,
    TokenManifest,
    read_manifest,
)
from spd_tools.tokens.progress import waiting
from spd_tools.tokens.rows import RowBlock, given_rows
from spd_tools.tokens.writer import RowWriter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")


@dataclass(frozen=True)
class TokenCacheInfo:
    """One token file, or what is left of one."""

    fingerprint: str
    path: Path
    n_bytes: int
    """Of all its files, left-overs of killed processes included."""
    manifest: TokenManifest | None
    """None when it is unfinished or damaged."""


def token_dtype(n_tokens: int | None) -> np.dtype[Any]:
    """uint16 when ids 0 to n_tokens - 1 fit, else (or when that is unknown) int32."""
    return np.dtype(np.uint16 if n_tokens is not None and n_tokens <= 1 << 16 else np.int32)


def cached_rows(
    fingerprint: str,
    seq_len: int,
    vocab_size: int,
    rows: Callable[[], Iterable[Sequence[int] | np.ndarray]],
    source: str,
    tokenizer: Tokenizer | None,
    exclude_tokens: tuple[int, ...] = (),
) -> TokenDataset:
    """The token file of rows that a program makes: found, or made now.

    Args:
        fingerprint: letters, digits, - and _; must cover everything that determines the rows.
        seq_len: width of the token file.
        vocab_size: ids are 0 to vocab_size - 1.
        rows: called only when there is no such token file; gives rows of 1 to seq_len token ids.
        source: name for people.
        tokenizer: copied into the token file.
        exclude_tokens: positions with these ids count nowhere.

    Raises:
        SpdToolsError: for a row that is too long or empty, an id outside the vocabulary, a full disk.
    """

    def blocks() -> Iterator[RowBlock]:
        return given_rows(rows(), seq_len)

    return build_token_file(
        fingerprint,
        blocks,
        source=source,
        seq_len=seq_len,
        vocab_size=vocab_size,
        tokenizer=tokenizer,
        exclude_tokens=exclude_tokens,
    )


def build_token_file(
    fingerprint: str,
    blocks: Callable[[], Iterable[RowBlock]],
    *,
    source: str,
    seq_len: int,
    vocab_size: int | None,
    dtype: np.dtype[Any] | None = None,
    tokenizer: Tokenizer | None = None,
    exclude_tokens: tuple[int, ...] = (),
    request: dict[str, Any] | None = None,
) -> TokenDataset:
    """Open the token file of this fingerprint; make it first when there is none.

    Of several processes that want it at once one makes it, the others wait for it. A process that dies on the way
    leaves a folder under another name, which the next one removes.

    Raises:
        SpdToolsError: whatever is wrong with the rows, or the disk.
    """
    folder = _folder(fingerprint)
    if folder.exists():
        return TokenDataset.open(folder)
    with _write_errors(folder), _lock(folder):
        if not folder.exists():
            _remove_leftovers(folder)
            aside = folder.with_name(f".{folder.name}{TEMPORARY_MARK}{os.getpid()}")
            try:
                aside.mkdir()
                writer = RowWriter(
                    aside,
                    source=source,
                    seq_len=seq_len,
                    dtype=dtype or token_dtype(vocab_size),
                    vocab_size=vocab_size,
                    exclude_tokens=exclude_tokens,
                )
                writer.write(blocks())
                if tokenizer is not None:
                    write_bytes(aside / TOKENIZER, tokenizer.to_str().encode())
                _write_manifest(aside, writer, fingerprint, source, seq_len, request)
                sync_folder(aside)
                os.rename(aside, folder)
                sync_folder(folder.parent)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return TokenDataset.open(folder)


def _write_manifest(
    folder: Path, writer: RowWriter, fingerprint: str, source: str, seq_len: int, request: dict[str, Any] | None
) -> None:
    names = [name for name in (TOKENS, ROW_LENGTHS, EXCLUDED, TOKENIZER) if (folder / name).exists()]
    manifest = TokenManifest(
        fingerprint=fingerprint,
        source=source,
        request=request,
        seq_len=seq_len,
        n_rows=writer.n_rows,
        n_tokens=writer.n_tokens,
        max_token=writer.max_token,
        files={name: (folder / name).stat().st_size for name in names},
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def list_token_caches() -> list[TokenCacheInfo]:
    """All token files, by fingerprint; what killed processes left is listed as unfinished."""
    folder = Settings.from_environment().tokens_dir
    if not folder.is_dir():
        return []
    names = {_fingerprint_of(path.name) for path in folder.iterdir() if path.is_dir()}
    return [_info(folder / name) for name in sorted(names)]


def remove_token_cache(fingerprint: str) -> int:
    """Delete a token file and what killed processes left of it; returns the bytes freed.

    Raises:
        SpdToolsError: when there is none, or a process is making it now.
    """
    folder = _folder(fingerprint)
    if not folder.exists() and not _leftovers(folder):
        raise SpdToolsError(f"There is no token file {fingerprint}.")
    with _write_errors(folder), _lock(folder, wait=False):
        n_bytes = _info(folder).n_bytes
        if folder.exists():
            # A removal that is killed on the way must not leave half a folder under the real name.
            os.rename(folder, folder.with_name(f".{folder.name}{TEMPORARY_MARK}removed"))
        _remove_leftovers(folder)
        _lock_path(folder).unlink(missing_ok=True)
    return n_bytes


def _info(folder: Path) -> TokenCacheInfo:
    parts = [path for path in [folder, *_leftovers(folder)] if path.exists()]
    files = [file for part in parts for file in part.rglob("*") if file.is_file()]
    try:
        manifest = read_manifest(folder) if folder.exists() else None
    except SpdToolsError:
        manifest = None
    return TokenCacheInfo(folder.name, folder, sum(file.stat().st_size for file in files), manifest)


def _folder(fingerprint: str) -> Path:
    if not _NAME.fullmatch(fingerprint):
        raise SpdToolsError(f"{fingerprint!r} is no fingerprint of a token file; it has letters, digits, - and _ only.")
    return Settings.from_environment().token_cache(fingerprint)


def _fingerprint_of(name: str) -> str:
    return name.partition(TEMPORARY_MARK)[0].removeprefix(".")


def _leftovers(folder: Path) -> list[Path]:
    return sorted(folder.parent.glob(f".{folder.name}{TEMPORARY_MARK}*"))


def _remove_leftovers(folder: Path) -> None:
    for path in _leftovers(folder):
        shutil.rmtree(path)


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def _lock(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file beside the folder; the system lets go of it when the process dies.

    Raises:
        SpdToolsError: when another process holds it and ``wait`` is off.
    """
    path = _lock_path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _acquire(fd, folder, wait)
            # remove_token_cache deletes lock files: one that is gone from its path locks nothing.
            if _is_at(fd, path):
                yield
                return
        finally:
            os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _acquire(fd: int, folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if not wait:
            raise SpdToolsError(f"Token file {folder.name} is in use by another process now; try later.") from error
        with waiting(f"Waiting for another process to make the token file {folder.name}"):
            fcntl.flock(fd, fcntl.LOCK_EX)


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SpdToolsError(
            f"The token file {folder} could not be written: {error.strerror}; free space or choose another SPD_OUT_DIR "
            "and run again."
        ) from error
