"""Row blocks -> the arrays of a token file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from spd_tools.errors import SpdToolsError
from spd_tools.tokens.dataset import EXCLUDED, ROW_LENGTHS, TOKENS
from spd_tools.tokens.rows import RowBlock


class _GrowingArray:
    """A .npy file whose first axis is known only at the end; the header is then written again."""

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self.path = path
        self._dtype = dtype
        self._row_shape = row_shape
        self._n_rows = 0
        self._file = path.open("xb")
        self._file.write(self._header())

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)
        self._n_rows += len(rows)

    def finish(self) -> None:
        header = self._header()
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _header(self) -> bytes:
        out = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self._dtype)
        # numpy leaves room in the header for the first axis to grow, so its size is always the same.
        np.lib.format.write_array_header_1_0(
            out, {"descr": descr, "fortran_order": False, "shape": (self._n_rows, *self._row_shape)}
        )
        return out.getvalue()


class RowWriter:
    """Writes rows into a folder, block by block, and counts them."""

    def __init__(
        self,
        folder: Path,
        *,
        source: str,
        seq_len: int,
        dtype: np.dtype[Any],
        vocab_size: int | None,
        exclude_tokens: tuple[int, ...] = (),
    ) -> None:
        self._source = source
        self._vocab_size = vocab_size
        self._limit = np.iinfo(dtype).max + 1 if vocab_size is None else vocab_size
        self._exclude = np.array(exclude_tokens, dtype=np.int64)
        self._tokens = _GrowingArray(folder / TOKENS, dtype, (seq_len,))
        self._lengths = _GrowingArray(folder / ROW_LENGTHS, np.dtype(np.int32), ())
        self._excluded = _GrowingArray(folder / EXCLUDED, np.dtype(np.bool_), (seq_len,)) if exclude_tokens else None
        self.n_rows = 0
        self.n_tokens = 0
        self.n_excluded = 0
        self.max_token = -1

    def write(self, blocks: Iterable[RowBlock]) -> None:
        """Write all rows.

        Raises:
            SpdToolsError: when there are none, a token id is outside the vocabulary, or the disk is full.
        """
        arrays = [array for array in (self._tokens, self._lengths, self._excluded) if array is not None]
        try:
            for block in blocks:
                self._append(block)
            for array in arrays:
                array.finish()
        finally:
            for array in arrays:
                array.close()
        if self._excluded is not None and not self.n_excluded:
            self._excluded.path.unlink()
        if not self.n_rows:
            raise SpdToolsError(f"{self._source} holds no documents with text; choose another data set or split.")
        if not self.n_tokens:
            raise SpdToolsError(f"Every token of {self._source} is excluded; exclude fewer token ids.")

    def _append(self, block: RowBlock) -> None:
        low, high = int(block.tokens.min()), int(block.tokens.max())
        if low < 0 or high >= self._limit:
            raise outside_vocabulary(self._source, low if low < 0 else high, self._vocab_size)
        self.max_token = max(self.max_token, high)
        self._tokens.append(block.tokens)
        self._lengths.append(block.lengths)
        self.n_rows += len(block.lengths)
        self.n_tokens += int(block.lengths.sum())
        if self._excluded is not None:
            inside = np.arange(block.tokens.shape[1]) < block.lengths[:, None]
            excluded = np.isin(block.tokens, self._exclude) & inside
            self._excluded.append(excluded)
            self.n_excluded += int(excluded.sum())
            self.n_tokens -= int(excluded.sum())


def outside_vocabulary(source: str, token: int, vocab_size: int | None) -> SpdToolsError:
    """The sentence for a token id that the model does not have."""
    if vocab_size is None:
        return SpdToolsError(f"{source} holds token id {token}, which is no id of 31 bits; mend the data set.")
    return SpdToolsError(
        f"{source} holds token id {token}, but the model's vocabulary ends at {vocab_size - 1}; use the tokenizer (or "
        "the tokenised data) that the model was trained with."
    )
