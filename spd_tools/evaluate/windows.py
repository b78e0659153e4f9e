"""Windows: some tokens of a row around one of them, and what a component does there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_tools.evaluate.draws import mixed
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import Example, KeyField, Record

CONTEXT = 16
"""Tokens to each side of the marked one."""
_BLOCK = 1 << 15


class Window(Record):
    """A marked token with what stands around it in its row, and what one component does there."""

    key: KeyField
    """The component that ``fires`` and ``activations`` are about."""
    row: int
    """Row of the harvest."""
    row_id: int
    """Row of the data set's token file."""
    start: int
    """Position of ``token_ids[0]`` in the row."""
    token_ids: list[int]
    marked: int
    """Place in ``token_ids`` of the token that the window was made around; also at the ends of a row, where less stands
    on one side of it."""
    fires: list[bool | None]
    """Along ``token_ids``; None where it is not known: at excluded positions, and in rows without a log beyond what is
    stored with an example."""
    activations: list[float | None]
    """Ranking activation along ``token_ids``; None where it is not stored: in logged rows everywhere but at firings."""

    @property
    def position(self) -> int:
        """Of the marked token in the row."""
        return self.start + self.marked

    @property
    def firing_places(self) -> list[int]:
        """Places in ``token_ids`` at which the component fires."""
        return [place for place, fires in enumerate(self.fires) if fires]

    @property
    def silent_places(self) -> list[int]:
        """Places in ``token_ids`` at which it is known not to fire."""
        return [place for place, fires in enumerate(self.fires) if fires is False]


@dataclass(frozen=True, eq=False)
class Firings:
    """One component's firings in the logged rows. Positions are flat: row * seq_len + position."""

    harvest: Harvest
    key: ComponentKey

    @cached_property
    def position(self) -> NDArray[np.int64]:
        """[n] ascending."""
        return self.harvest.activations(self.key).token

    @cached_property
    def ranking(self) -> NDArray[np.float32]:
        """[n] ranking activations."""
        return self.harvest.activations(self.key).values[self.harvest.ranking_kind]

    def silent_at(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where it does not fire, among positions of logged rows that count."""
        return self.silent_between(positions, positions + 1)

    def silent_between(self, begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where it fires nowhere from begin to end (exclusive)."""
        return np.searchsorted(self.position, begin) == np.searchsorted(self.position, end)

    def window(self, position: int, context: int) -> Window:
        """The window around a position of a logged row."""
        harvest = self.harvest
        row, at = divmod(position, harvest.seq_len)
        start, end = max(0, at - context), min(int(harvest.row_lengths[row]), at + context + 1)
        first = row * harvest.seq_len + start
        logged = slice(*np.searchsorted(self.position, [first, first + end - start]).tolist())
        fires: list[bool | None] = [False] * (end - start)
        activations: list[float | None] = [None] * (end - start)
        for where, value in zip((self.position[logged] - first).tolist(), self.ranking[logged].tolist(), strict=True):
            fires[where], activations[where] = True, value
        if harvest.excluded is not None:
            for where in np.flatnonzero(harvest.excluded[row, start:end]).tolist():
                fires[where] = None
        return Window(
            key=self.key,
            row=row,
            row_id=int(harvest.row_ids[row]),
            start=start,
            token_ids=harvest.tokens()[row, start:end].tolist(),
            marked=at - start,
            fires=fires,
            activations=activations,
        )


def window_of_example(harvest: Harvest, key: ComponentKey, example: Example) -> Window:
    """The window of a stored example in a row that is not logged."""
    threshold = np.float32(harvest.manifest.config.threshold)
    gating = example.activations[harvest.gating_kind]
    return Window(
        key=key,
        row=example.row,
        row_id=example.row_id,
        start=example.start,
        token_ids=example.token_ids,
        marked=example.firing_index,
        fires=[None if value is None else bool(np.float32(value) > threshold) for value in gating],
        activations=example.activations[harvest.ranking_kind],
    )


def text_hashes(harvest: Harvest, row: NDArray[np.int64], position: NDArray[Any], context: int) -> NDArray[np.uint64]:
    """[n] hashes of the token sequences of windows: equal for equal sequences, wherever the marked token stands.

    Args:
        harvest: whose rows.
        row: [n] rows of the harvest.
        position: [n] of the marked tokens.
        context: tokens to each side, cut at the ends of the row.
    """
    found = np.empty(len(row), np.uint64)
    weights = mixed(np.arange(1, 2 * context + 2)) | np.uint64(1)
    for at in range(0, len(row), _BLOCK):
        rows = row[at : at + _BLOCK]
        middle = np.asarray(position[at : at + _BLOCK], np.int64)
        start = np.maximum(middle - context, 0)
        length = np.minimum(middle + context + 1, harvest.row_lengths[rows]) - start
        place = start[:, None] + np.arange(2 * context + 1)
        tokens = harvest.tokens()[rows[:, None], np.minimum(place, harvest.seq_len - 1)]
        terms = mixed(tokens) * weights
        terms[np.arange(2 * context + 1) >= length[:, None]] = 0
        found[at : at + _BLOCK] = mixed(terms.sum(1, dtype=np.uint64) + length.astype(np.uint64))
    return found
