"""Local .jsonl, .jsonl.gz and .txt files."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from spd_tools.errors import SpdToolsError
from spd_tools.tokens.file_hashes import content_hashes
from spd_tools.tokens.source import (
    BATCH_CHARACTERS,
    BATCH_DOCUMENTS,
    MAX_DOCUMENT,
    Source,
    TextBatch,
    TokenBatch,
    check_characters,
)


class JsonlSource(Source):
    """One field of JSON lines: text or a list of token ids. Blank lines are skipped."""

    def __init__(self, name: str, files: list[Path], column: str, is_tokenized: bool | None) -> None:
        self.name = name
        self._files = files
        self._column = column
        first = next((value for file in files for _, value, _ in _fields(file, column)), None)
        self.tokenized = isinstance(first, list) if is_tokenized is None else is_tokenized
        self.identity: dict[str, Any] = {"kind": "jsonl", "column": column, "files": content_hashes(files)}

    def batches(self) -> Iterator[TextBatch | TokenBatch]:
        """Read the files in order."""
        check = self._token_ids if self.tokenized else self._text
        fields = (field for file in self._files for field in _fields(file, self._column))
        for values, done in _batched(((check(value, where), n) for where, value, n in fields), self._files):
            if self.tokenized:
                ids = np.array([token for value in values for token in value], dtype=np.int64)
                yield TokenBatch(ids, np.array([len(value) for value in values], dtype=np.int64), done)
            else:
                yield TextBatch(cast(list[str], values), done)

    def _text(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            what = "null" if value is None else f"of type {type(value).__name__}"
            raise SpdToolsError(f"{where}: {self._column!r} is {what}, not text; mend or drop the line.")
        return check_characters(value, where)

    def _token_ids(self, value: Any, where: str) -> list[int]:
        limit = 1 << 62
        if not isinstance(value, list) or not all(type(token) is int and abs(token) < limit for token in value):
            raise SpdToolsError(f"{where}: {self._column!r} is not a list of token ids; mend or drop the line.")
        return value


class TextSource(Source):
    """Text files; a document is a paragraph: it ends at a blank line or with its file."""

    tokenized = False

    def __init__(self, name: str, files: list[Path]) -> None:
        self.name = name
        self._files = files
        self.identity: dict[str, Any] = {"kind": "txt", "files": content_hashes(files)}

    def batches(self) -> Iterator[TextBatch | TokenBatch]:
        """Read the files in order."""
        documents = (document for file in self._files for document in _paragraphs(file))
        for texts, done in _batched(documents, self._files):
            yield TextBatch(texts, done)


def _batched(documents: Iterator[tuple[Any, int]], files: list[Path]) -> Iterator[tuple[list[Any], float]]:
    """Group documents, given with the bytes of the files that were read for each; also the share read so far."""
    total = sum(file.stat().st_size for file in files)
    batch: list[Any] = []
    size = n_read = 0
    for document, n_bytes in documents:
        batch.append(document)
        size += len(document)
        n_read += n_bytes
        if len(batch) == BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
            yield batch, min(1.0, n_read / total)
            batch, size = [], 0
    if batch:
        yield batch, 1.0


def _lines(path: Path) -> Iterator[tuple[str, str, int]]:
    """Lines without their line break, each with "FILE, line N" and the bytes of the file read for it.

    Raises:
        SpdToolsError: for a line that is too long or not UTF-8, and for a damaged file.
    """
    number = position = 0
    try:
        with path.open("rb") as raw:
            lines = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
            while line := lines.readline(MAX_DOCUMENT + 1):
                number += 1
                where = f"{path}, line {number}"
                if len(line) > MAX_DOCUMENT:
                    raise SpdToolsError(f"{where}: longer than {MAX_DOCUMENT:,} bytes; split it.")
                before, position = position, raw.tell()
                yield _decoded(line, where, first=number == 1), where, position - before
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SpdToolsError(f"{path} is not a whole gzip file (torn after line {number}): copy it again.") from error
    except OSError as error:
        raise SpdToolsError(f"{path} could not be read: {error.strerror}.") from error


def _decoded(line: bytes, where: str, first: bool) -> str:
    try:
        return line.decode("utf-8-sig" if first else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise SpdToolsError(f"{where}: not valid UTF-8 at byte {error.start}; convert the file to UTF-8.") from error


def _fields(path: Path, column: str) -> Iterator[tuple[str, Any, int]]:
    """The column's value of every line, with "FILE, line N" and bytes read."""
    n_bytes = 0
    for line, where, n in _lines(path):
        n_bytes += n
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SpdToolsError(f"{where}: not JSON; every line of a .jsonl file is one JSON object.") from error
        if not isinstance(record, dict):
            raise SpdToolsError(f"{where}: not a JSON object; write lines such as {{{json.dumps(column)}: ...}}.")
        if column not in record:
            names = ", ".join(map(repr, list(record)[:20])) or "none"
            raise SpdToolsError(f"{where}: no field {column!r}; its fields are {names}: choose one with --column.")
        yield where, record[column], n_bytes
        n_bytes = 0


def _paragraphs(path: Path) -> Iterator[tuple[str, int]]:
    """Paragraphs and the bytes read for each."""
    paragraph: list[str] = []
    size = n_bytes = 0
    start = ""
    for line, where, n in _lines(path):
        n_bytes += n
        if line.strip():
            start = start if paragraph else where
            paragraph.append(line)
            size += len(line) + 1
            if size > MAX_DOCUMENT:
                raise SpdToolsError(
                    f"{start}: a paragraph of more than {MAX_DOCUMENT:,} characters begins here; put blank lines "
                    "between documents, or use .jsonl."
                )
        elif paragraph:
            yield "\n".join(paragraph), n_bytes
            paragraph, size, n_bytes = [], 0, 0
    if paragraph:
        yield "\n".join(paragraph), n_bytes
