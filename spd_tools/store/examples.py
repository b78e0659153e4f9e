"""Examples of one component: stored windows, widened with tokens of the row and firings of the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spd_tools.store.columns import ArrowRows, numbers_of, numbers_or_nan
from spd_tools.store.records import Activations, Example


@dataclass(frozen=True, eq=False)
class StoredExamples:
    """The first examples of one component and kind, as they are stored."""

    row: NDArray[np.int64]
    position: NDArray[np.int32]
    start: NDArray[np.int32]
    windows: dict[str, tuple[NDArray[np.float32], NDArray[np.int32]]]
    """kind -> (activations of all windows, NaN where null; [n + 1] offsets)."""

    @classmethod
    def read(cls, rows: ArrowRows, component: int, column: str, limit: int | None, kinds: list[str]) -> StoredExamples:
        """Slice one component's list of structs; all of it without a limit."""
        batch, at = rows.locate(component)
        lists = batch.column(column)
        assert isinstance(lists, pa.ListArray)
        begin, end = lists.offsets[at].as_py(), lists.offsets[at + 1].as_py()
        examples = lists.values.slice(begin, end - begin if limit is None else min(limit, end - begin))
        assert isinstance(examples, pa.StructArray)

        def numbers(name: str) -> NDArray[Any]:
            return numbers_of(examples.field(name))

        windows = {kind: _windows(examples.field(kind)) for kind in kinds}
        return cls(numbers("row"), numbers("position"), numbers("start"), windows)

    def __len__(self) -> int:
        return len(self.row)

    def at_firing(self, kind: str) -> NDArray[np.float32]:
        """[n] activations where the examples fire."""
        values, offsets = self.windows[kind]
        return values[offsets[:-1] + (self.position - self.start)]

    def of_many_tokens(self, tokens: NDArray[Any], max_per_token: int, limit: int) -> StoredExamples:
        """The first ``limit`` examples of which no more than ``max_per_token`` fire on the same token."""
        seen: Counter[int] = Counter()
        kept: list[int] = []
        for number, token in enumerate(tokens[self.row, self.position].tolist()):
            seen[token] += 1
            if seen[token] <= max_per_token:
                kept.append(number)
        return self.take(kept[:limit])

    def take(self, numbers: list[int]) -> StoredExamples:
        """The examples of these numbers, in their order."""

        def taken(values: NDArray[np.float32], offsets: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[Any]]:
            parts = [values[offsets[number] : offsets[number + 1]] for number in numbers]
            ends = np.cumsum([0, *map(len, parts)], dtype=np.int32)
            return np.concatenate([*parts, values[:0]]), ends

        windows = {kind: taken(*window) for kind, window in self.windows.items()}
        return StoredExamples(self.row[numbers], self.position[numbers], self.start[numbers], windows)


def _windows(column: pa.Array) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Values (null -> NaN; activations never are) and offsets of a list column, the values cut to what it covers."""
    assert isinstance(column, pa.ListArray)
    offsets = numbers_of(column.offsets)
    first = int(offsets[0])
    return numbers_or_nan(column.values.slice(first, int(offsets[-1]) - first)), offsets - first


def widen(
    stored: StoredExamples,
    context: int,
    tokens: NDArray[Any],
    row_lengths: NDArray[np.int32],
    row_ids: NDArray[np.int64],
    log: Activations,
    text_of: Callable[[int], str | None],
) -> list[Example]:
    """Examples with ``context`` tokens to each side, cut at the ends of their rows."""
    left = np.maximum(stored.position - context, 0)
    right = np.minimum(stored.position + context + 1, row_lengths[stored.row])
    base = stored.row * log.seq_len
    logged = np.searchsorted(log.token, np.stack([base + left, base + right]))
    examples = []
    for number, (row, position) in enumerate(zip(stored.row.tolist(), stored.position.tolist(), strict=True)):
        begin, end = int(left[number]), int(right[number])
        token_ids = tokens[row, begin:end].tolist()
        firings = slice(int(logged[0, number]), int(logged[1, number]))
        at = log.token[firings] - (base[number] + begin)
        activations = {
            kind: _aligned(stored, kind, number, begin, end, at, log.values[kind][firings]) for kind in stored.windows
        }
        examples.append(
            Example(
                row=row,
                row_id=int(row_ids[row]),
                position=position,
                start=begin,
                firing_index=position - begin,
                token_ids=token_ids,
                token_texts=[text_of(token_id) for token_id in token_ids],
                activations=activations,
            )
        )
    return examples


def _aligned(
    stored: StoredExamples,
    kind: str,
    number: int,
    begin: int,
    end: int,
    logged_at: NDArray[np.int64],
    logged_values: NDArray[np.float32],
) -> list[float | None]:
    """Activations at positions begin to end of one row: from the log, overlaid by the stored window."""
    line = np.full(end - begin, np.nan, np.float32)
    line[logged_at] = logged_values
    values, offsets = stored.windows[kind]
    window = values[offsets[number] : offsets[number + 1]]
    start = int(stored.start[number])
    low, high = max(start, begin), min(start + len(window), end)
    line[low - begin : high - begin] = window[low - start : high - start]
    return [None if value != value else value for value in line.tolist()]
