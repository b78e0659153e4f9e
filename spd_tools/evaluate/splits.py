"""Labelling and scoring are held apart by content.

A row belongs to labelling or to scoring by a hash of its tokens, so equal rows are never on both sides. Passages may
recur in rows that differ elsewhere: a window whose text stands on the labelling side is not scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_tools.evaluate.draws import shuffled, state_of
from spd_tools.evaluate.windows import CONTEXT, Firings, Window, text_hashes, window_of_example
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import EXAMPLE_KINDS, ExampleKind
from spd_tools.store.scores import at_least, chosen

_SALT = b"spd-tools labelling and scoring 1\0"
_UNKNOWN, _LABELLING, _SCORING = -1, 0, 1


@dataclass(frozen=True, eq=False)
class Logged:
    """What a harvest's log offers to scoring: of every component, and computed once."""

    index: NDArray[np.int64]
    """[rows] place of each row among the logged ones; -1: not logged."""
    texts: NDArray[np.uint64]
    """[logged rows, seq] hash of the text of the window around each position."""
    usable: NDArray[np.bool_]
    """[logged rows, seq] scoring rows' positions that count and whose window's text is in no logged labelling row."""
    positions: NDArray[np.int64]
    """[n] the usable ones, flat (row * seq_len + position), ascending."""


@dataclass(frozen=True, eq=False)
class ByToken:
    """Usable positions, grouped by their token."""

    tokens: NDArray[np.int64]
    """[distinct] ascending."""
    starts: NDArray[np.int64]
    """[distinct + 1] where in ``positions`` each token's begin."""
    positions: NDArray[np.int64]
    """[n] flat."""

    def counts(self, tokens: NDArray[Any]) -> NDArray[np.int64]:
        """[n] how many positions each of the tokens has."""
        at = np.searchsorted(self.tokens, tokens)
        known = np.append(self.tokens, -1)[at] == tokens
        return np.where(known, np.append(np.diff(self.starts), 0)[at], 0)

    def of(self, token: int) -> NDArray[np.int64]:
        """Positions of a token that has some."""
        at = int(np.searchsorted(self.tokens, token))
        return self.positions[self.starts[at] : self.starts[at + 1]]


class Split:
    """A harvest's rows, half for labelling and half for scoring. Depends on the rows' tokens and on nothing else."""

    def __init__(self, harvest: Harvest, context: int = CONTEXT) -> None:
        """Split a harvest; nothing is read before it is asked for.

        Args:
            harvest: what is split.
            context: tokens to each side of a window's marked token, in labelling as in scoring.

        Raises:
            SpdToolsError: for a context below 1.
        """
        at_least(context, 1, "The context")
        self.harvest = harvest
        self.context = context
        self._side = np.full(harvest.n_rows, _UNKNOWN, np.int8)

    def labelling(self, row: int) -> bool:
        """Whether labels may be made from this row of the harvest."""
        return bool(self.labelling_rows(np.array([row]))[0])

    def scoring(self, row: int) -> bool:
        """Whether labels are scored on this row of the harvest."""
        return not self.labelling(row)

    def labelling_rows(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[n] which of some rows belong to labelling."""
        harvest = self.harvest
        for row in np.unique(rows[self._side[rows] == _UNKNOWN]).tolist():
            content = harvest.tokens()[row, : harvest.row_lengths[row]].astype("<i4").tobytes()
            self._side[row] = hashlib.sha256(_SALT + content).digest()[0] & 1
        return self._side[rows] == _LABELLING

    # --- labelling ----------------------------------------------------------------------------------------------

    def labelling_examples(self, key: str | ComponentKey, n: int, kind: ExampleKind = "uniform") -> list[Window]:
        """Up to n windows of a component's firings in labelling rows, no text twice.

        First the stored examples of the kind, in their order; where they do not suffice, firings of the log: for
        "uniform" in random order, for "top" by descending |ranking activation|.

        Raises:
            SpdToolsError: for an unknown component or kind, or a negative n.
        """
        chosen(kind, EXAMPLE_KINDS, "kind of examples")
        at_least(n, 0, "The number of examples")
        key = self.harvest.keys.key(self.harvest.keys.flat(key))
        texts: set[tuple[int, ...]] = set()
        found: list[Window] = []
        for window in chain(self._stored(key, kind), self._from_log(key, kind)):
            if len(found) == n:
                break
            text = tuple(window.token_ids)
            if text not in texts:
                texts.add(text)
                found.append(window)
        return found

    def has_labelling_example(self, key: str | ComponentKey) -> bool:
        """Whether ``labelling_examples`` has any, of either kind.

        Raises:
            SpdToolsError: for an unknown component.
        """
        return any(self.labelling_examples(key, 1, kind) for kind in EXAMPLE_KINDS)

    def _stored(self, key: ComponentKey, kind: ExampleKind) -> Iterator[Window]:
        stored = self.harvest.stored_examples(key, kind)
        firings, in_log = Firings(self.harvest, key), self._in_log(stored.row)
        for number in np.flatnonzero(self.labelling_rows(stored.row)).tolist():
            if in_log[number]:
                place = int(stored.row[number]) * self.harvest.seq_len + int(stored.position[number])
                yield firings.window(place, self.context)
            else:
                [example] = self.harvest.widened(key, stored.take([number]), self.context)
                yield window_of_example(self.harvest, key, example)

    def _from_log(self, key: ComponentKey, kind: ExampleKind) -> Iterator[Window]:
        firings = Firings(self.harvest, key)
        at = np.flatnonzero(self.labelling_rows(firings.position // self.harvest.seq_len))
        if kind == "top":
            positions = firings.position[at[np.argsort(-np.abs(firings.ranking[at]), kind="stable")]]
        else:
            positions = shuffled(state_of("labelling", key), firings.position[at])
        for position in positions.tolist():
            yield firings.window(position, self.context)

    # --- scoring ------------------------------------------------------------------------------------------------

    @cached_property
    def logged(self) -> Logged:
        """The log's rows; takes about a second per million tokens, the first time."""
        harvest, rows = self.harvest, np.asarray(self.harvest.logged_rows)
        index = np.full(harvest.n_rows, -1, np.int64)
        index[rows] = np.arange(len(rows))
        inside = np.arange(harvest.seq_len) < np.asarray(harvest.row_lengths)[rows][:, None]
        at, position = np.nonzero(inside)
        texts = np.zeros(inside.shape, np.uint64)
        texts[inside] = text_hashes(harvest, rows[at], position, self.context)
        labelling = self.labelling_rows(rows)
        usable = inside & ~labelling[:, None]
        usable[usable] = ~np.isin(texts[usable], texts[inside & labelling[:, None]])
        if harvest.excluded is not None:
            usable &= ~harvest.excluded[rows]
        at, position = np.nonzero(usable)
        return Logged(index, texts, usable, rows[at] * harvest.seq_len + position)

    @cached_property
    def by_token(self) -> ByToken:
        """Usable positions by token."""
        positions = self.logged.positions
        token = self.tokens_at(positions)
        order = np.argsort(token, kind="stable")
        tokens, first = np.unique(token[order], return_index=True)
        return ByToken(tokens, np.append(first, len(token)), positions[order])

    @cached_property
    def by_count(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(flat indices of the components that fire, by ascending firing count; those counts)."""
        counts = self.harvest.firing_counts
        order = np.argsort(counts, kind="stable")
        order = order[counts[order] > 0]
        return order, counts[order]

    def tokens_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] token ids at flat positions."""
        row, position = np.divmod(positions, self.harvest.seq_len)
        return self.harvest.tokens()[row, position].astype(np.int64)

    def usable(self, positions: NDArray[np.int64], hidden: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """[n] which flat positions a component may be scored on.

        Args:
            positions: [n] row * seq_len + position, in any row.
            hidden: the component's ``hidden_texts``.
        """
        row, position = np.divmod(positions, self.harvest.seq_len)
        at = self.logged.index[row]
        usable = (at >= 0) & self.logged.usable[at, position]
        return usable & ~_among(self.logged.texts[at, position], hidden)

    def texts_at(self, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
        """[n] hashes of the windows' texts at flat positions of logged rows."""
        row, position = np.divmod(positions, self.harvest.seq_len)
        return self.logged.texts[self.logged.index[row], position]

    def hidden_texts(self, key: str | ComponentKey, seen: NDArray[np.int64] | None = None) -> NDArray[np.uint64]:
        """Hashes, ascending, of windows that a component may not be scored on, beside those left out for all.

        They are its labelling windows in rows without a log (those of the log are left out for all), and every window
        of the rows that the author of its label may have seen.

        Args:
            key: the component.
            seen: [n] such rows, in either half.

        Raises:
            SpdToolsError: for an unknown component.
        """
        found = [] if seen is None or not len(seen) else [self._texts_of_rows(seen)]
        for kind in EXAMPLE_KINDS:
            stored = self.harvest.stored_examples(key, kind)
            outside = np.flatnonzero(~self._in_log(stored.row))
            outside = outside[self.labelling_rows(stored.row[outside])]
            found.append(text_hashes(self.harvest, stored.row[outside], stored.position[outside], self.context))
        return np.unique(np.concatenate(found))

    def _texts_of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        inside = np.arange(self.harvest.seq_len) < np.asarray(self.harvest.row_lengths)[rows][:, None]
        at, position = np.nonzero(inside)
        return text_hashes(self.harvest, rows[at], position, self.context)

    def scoring_firings(self, key: str | ComponentKey) -> NDArray[np.int64]:
        """[n] flat positions, ascending, of a component's logged firings that it may be scored on.

        Raises:
            SpdToolsError: for an unknown component.
        """
        position = self.harvest.activations(key).token
        return position[self.usable(position, self.hidden_texts(key))]

    def _in_log(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        logged = self.harvest.logged_rows
        return np.searchsorted(logged, rows, "right") > np.searchsorted(logged, rows)


def _among(values: NDArray[np.uint64], ascending: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """[n] which values are among others. (``np.isin`` sorts the others every time.)"""
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    at = np.searchsorted(ascending, values)
    return ascending[np.minimum(at, len(ascending) - 1)] == values
