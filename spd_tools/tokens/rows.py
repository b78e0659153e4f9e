"""Documents -> rows of token ids. Documents without tokens leave no trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from spd_tools.errors import SpdToolsError
from spd_tools.tokens.source import TokenBatch

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class RowBlock:
    """A few rows in order."""

    tokens: np.ndarray
    """[rows, seq] int64, 0 behind a row's length"""
    lengths: np.ndarray
    """[rows] int32, 1 to seq"""


def packed_rows(documents: Iterable[TokenBatch], seq_len: int, end_id: int) -> Iterator[RowBlock]:
    """All documents in one stream with ``end_id`` after each, sliced; the last row may be shorter."""
    rest = np.empty(0, dtype=np.int64)
    for batch in documents:
        lengths = batch.lengths[batch.lengths > 0]
        stream = np.concatenate([rest, np.insert(batch.ids, np.cumsum(lengths), end_id)])
        n_rows = len(stream) // seq_len
        if n_rows:
            yield RowBlock(stream[: n_rows * seq_len].reshape(n_rows, seq_len), np.full(n_rows, seq_len, np.int32))
        rest = stream[n_rows * seq_len :]
    if len(rest):
        yield _padded(rest, np.array([len(rest)], dtype=np.int32), seq_len)


def cut_rows(documents: Iterable[TokenBatch], seq_len: int) -> Iterator[RowBlock]:
    """Every document in rows of its own: as many full ones as it has, then one with what is left."""
    for batch in documents:
        # A short document takes a whole row: as rows, a batch may be many times its size.
        ends = np.cumsum(batch.lengths)
        for at in range(0, len(ends), ROWS_AT_ONCE):
            lengths = batch.lengths[at : at + ROWS_AT_ONCE]
            stop = ends[min(at + ROWS_AT_ONCE, len(ends)) - 1]
            ids = batch.ids[ends[at] - batch.lengths[at] : stop]
            pieces = -(-lengths // seq_len)
            if not pieces.sum():
                continue
            row_lengths = np.full(pieces.sum(), seq_len, dtype=np.int32)
            some = pieces > 0
            row_lengths[np.cumsum(pieces)[some] - 1] = (lengths - (pieces - 1) * seq_len)[some]
            yield _padded(ids, row_lengths, seq_len)


def given_rows(rows: Iterable[Sequence[int] | np.ndarray], seq_len: int) -> Iterator[RowBlock]:
    """Rows that somebody made: each 1 to seq_len token ids.

    Raises:
        SpdToolsError: for a row of another length.
    """
    iterator = iter(rows)
    while some := [np.asarray(row, dtype=np.int64) for row in islice(iterator, ROWS_AT_ONCE)]:
        lengths = np.array([len(row) for row in some], dtype=np.int32)
        if lengths.min() < 1 or lengths.max() > seq_len:
            bad = lengths.min() if lengths.min() < 1 else lengths.max()
            raise SpdToolsError(f"A row has {bad} tokens; rows of this token file have 1 to {seq_len}.")
        yield _padded(np.concatenate(some), lengths, seq_len)


def limit_rows(blocks: Iterable[RowBlock], max_rows: int | None) -> Iterator[RowBlock]:
    """The first ``max_rows`` rows; nothing behind them is read."""
    left = max_rows
    for block in blocks:
        if left is None or len(block.lengths) < left:
            left = None if left is None else left - len(block.lengths)
            yield block
        else:
            yield RowBlock(block.tokens[:left], block.lengths[:left])
            return


def _padded(ids: np.ndarray, lengths: np.ndarray, seq_len: int) -> RowBlock:
    tokens = np.zeros((len(lengths), seq_len), dtype=np.int64)
    tokens[np.arange(seq_len) < lengths[:, None]] = ids
    return RowBlock(tokens, lengths)
