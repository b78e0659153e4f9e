"""The rows of a harvest: the data set's rows in a seeded permutation, cut into global batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.harvest.hashing import permuted_rows
from spd_tools.tokens import TokenDataset


@dataclass(frozen=True)
class Batch:
    """A global batch, or some rows of it."""

    rows: NDArray[np.int64]
    """[rows] numbers within the harvest."""
    tokens: NDArray[np.int32]
    """[rows, seq]; zeros where padded."""
    included: NDArray[np.bool_]
    """[rows, seq]"""

    def slices(self, n: int) -> list[Batch]:
        """The batch in pieces of n rows."""
        spans = [slice(start, start + n) for start in range(0, len(self.rows), n)]
        return [Batch(self.rows[span], self.tokens[span], self.included[span]) for span in spans]


class HarvestRows:
    """Row i of the harvest is row ``row_ids[i]`` of the token file."""

    def __init__(self, dataset: TokenDataset, seed: int, n_batches: int | None, batch_size: int) -> None:
        """Choose the rows.

        Args:
            dataset: the token file.
            seed: of the permutation.
            n_batches: None takes every row; the last batch may then be smaller.
            batch_size: rows per batch.

        Raises:
            SpdToolsError: when the data set has no rows or too few for that many batches.
        """
        if batch_size < 1 or (n_batches is not None and n_batches < 1):
            raise SpdToolsError("A harvest needs --n-batches and --batch-size of at least 1.")
        if dataset.n_rows == 0:
            raise SpdToolsError(f"{dataset.source} has no rows; give a data set with text in it.")
        available = -(-dataset.n_rows // batch_size)
        n_batches = available if n_batches is None else n_batches
        if n_batches > available:
            raise SpdToolsError(
                f"{dataset.source} has {dataset.n_rows} rows, which make {available} batches of {batch_size}; "
                f"take --n-batches {available} or less, or all."
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.n_batches = n_batches
        self.row_ids = permuted_rows(seed, dataset.n_rows)[: n_batches * batch_size]

    def __len__(self) -> int:
        return len(self.row_ids)

    def batch(self, index: int) -> Batch:
        """Read one batch; nothing else of the file is touched."""
        rows = np.arange(index * self.batch_size, min((index + 1) * self.batch_size, len(self)), dtype=np.int64)
        tokens, lengths, excluded = self.take(rows)
        included = (np.arange(self.dataset.seq_len) < lengths[:, None]) & ~excluded
        return Batch(rows, np.where(np.arange(self.dataset.seq_len) < lengths[:, None], tokens, 0), included)

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        """Tokens, lengths and excluded positions of harvest rows."""
        ids = self.row_ids[rows]
        tokens = np.asarray(self.dataset.tokens[ids], np.int32)
        excluded = self.dataset.excluded
        return (
            tokens,
            np.asarray(self.dataset.row_lengths[ids], np.int32),
            np.zeros(tokens.shape, np.bool_) if excluded is None else np.asarray(excluded[ids]),
        )
