"""Local parquet files: a column of text or of token ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spd_tools.errors import SpdToolsError
from spd_tools.tokens.columns import is_token_column, read_column
from spd_tools.tokens.file_hashes import content_hashes
from spd_tools.tokens.source import BATCH_DOCUMENTS, Source, TextBatch, TokenBatch


class ParquetSource(Source):
    """One column of parquet files, read a piece at a time."""

    def __init__(self, name: str, files: list[Path], column: str, is_tokenized: bool | None) -> None:
        self.name = name
        self._files = files
        self._column = column
        opened = [_open(file, column, is_tokenized) for file in files]
        self._n_rows = sum(file.metadata.num_rows for file, _ in opened)
        kinds = {tokens: path for (_, tokens), path in zip(opened, files, strict=True)}
        if len(kinds) > 1:
            raise SpdToolsError(
                f"Column {column!r} holds token ids in {kinds[True]} and text in {kinds[False]}; name one kind of file."
            )
        self.tokenized = next(iter(kinds))
        self.identity: dict[str, Any] = {"kind": "parquet", "column": column, "files": content_hashes(files)}

    def batches(self) -> Iterator[TextBatch | TokenBatch]:
        """Read the files in order."""
        n_read = 0
        for path in self._files:
            first_row = 0
            for piece in _pieces(path, self._column, self.tokenized):
                n_read += len(piece)
                yield read_column(piece, self.tokenized, str(path), first_row, n_read / self._n_rows)
                first_row += len(piece)


def _open(path: Path, column: str, is_tokenized: bool | None) -> tuple[pq.ParquetFile, bool]:
    try:
        # Prefetching whole row groups would hold hundreds of megabytes.
        file = pq.ParquetFile(path, pre_buffer=False)
        schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise SpdToolsError(f"{path} could not be read as a parquet file; it may be torn: copy it again.") from error
    return file, is_token_column(schema, column, str(path), is_tokenized)


def _pieces(path: Path, column: str, tokenized: bool) -> Iterator[pa.Array]:
    file, _ = _open(path, column, tokenized)
    with file:
        try:
            for batch in file.iter_batches(batch_size=BATCH_DOCUMENTS, columns=[column]):
                yield batch.column(column)
        except (pa.ArrowException, OSError) as error:
            raise SpdToolsError(f"{path} is damaged and could not be read to its end: copy it again.") from error
