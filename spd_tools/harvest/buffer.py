"""Firings of the batches since the last segment, and what has to be summed before they become sparse counts."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spd_tools.harvest import counting
from spd_tools.harvest.clock import StageClock
from spd_tools.harvest.exact_sums import N_LIMBS, carry
from spd_tools.harvest.examples import LayerExamples
from spd_tools.harvest.firings import MASS_UNIT_BITS, FiringBlock, Firings, NextTokens
from spd_tools.harvest.parallel import for_each
from spd_tools.store.schema import HarvestConfig


@dataclass(frozen=True)
class GroupedFirings:
    """All firings of a buffer, by component and by position."""

    indptr: NDArray[np.int64]
    """[C + 1]"""
    position: NDArray[np.int32]
    """[n] position in the buffer, ascending within a component."""
    values: NDArray[np.float32]
    """[kinds, n]"""
    component_at: NDArray[np.int32]
    """[n] components by position, ascending within a position."""
    place: NDArray[np.int32]
    """[n] where each firing lies in ``component_at``."""
    position_end: NDArray[np.int64]
    """[positions] end of each position's components."""


@dataclass(frozen=True)
class Positions:
    """The buffer's token positions, one after the other."""

    tokens: NDArray[np.int32]
    included: NDArray[np.bool_]
    row: NDArray[np.int64]
    """[rows] harvest rows."""
    next_tokens: NextTokens
    dropped: NDArray[np.int64]
    """[positions] mass that p_min dropped."""


@dataclass(frozen=True)
class Sample:
    """Numbers of some batches, from which those of a harvest can be told."""

    firing_counts: NDArray[np.int64]
    """[C]"""
    row_counts: NDArray[np.int64]
    """[C] rows in which a component fires."""
    n_positions: int
    """Padding and excluded ones included."""
    n_next_tokens: int
    """Next-token probabilities of at least p_min."""
    n_pairs: int
    """Pairs of components at positions where both fire."""
    n_outputs: int
    """Pairs of a firing and a next-token probability at its position."""
    bytes: int
    """Memory, but for the windows of examples."""


class FiringBuffer:
    """Takes in rows; what it holds depends only on which rows came, not on how or in what order."""

    def __init__(self, config: HarvestConfig, layers: list[tuple[str, int]], vocab_size: int, kinds: list[str]) -> None:
        self.config = config
        self.kinds = kinds
        self.n_components = sum(n for _, n in layers)
        self.vocab_size = vocab_size
        starts = np.cumsum([0, *(n for _, n in layers)]).tolist()
        self.examples = [
            LayerExamples(config, start, n, len(kinds)) for start, (_, n) in zip(starts, layers, strict=False)
        ]
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._kept: list[_Kept] = []
        self.n_positions = 0
        self.n_firings = 0
        self._bytes = 0

    def add(self, firings: Firings, clock: StageClock) -> None:
        """Take in some rows; their dense activations are no longer needed afterwards. Threads may add at once."""
        seq = firings.tokens.shape[1]
        blocks: list[FiringBlock] = []
        for at, block in enumerate(firings.blocks):
            with clock("examples"):
                self.examples[at].add(block, firings.rows, seq)
            blocks.append(replace(block, windows=_NO_WINDOWS))
        with clock("grouping"):
            kept = _keep(replace(firings, blocks=blocks))
        with self._lock:
            self._kept.append(kept)
            self.n_positions += firings.tokens.size
            self.n_firings += len(kept.component_at)
            self._bytes += kept.bytes

    def firing_counts(self) -> NDArray[np.int64]:
        """[C] firings since the last segment."""
        counts = np.zeros(self.n_components, np.int64)
        for kept in self._kept:
            for block in kept.blocks:
                counts[block.start : block.stop] += np.diff(block.indptr)
        return counts

    def sample(self) -> Sample:
        """What came in since the last segment, in numbers."""
        n_pairs = n_outputs = 0
        row_counts = np.zeros(self.n_components, np.int64)
        for kept in self._kept:
            for block in kept.blocks:
                row_counts[block.start : block.stop] += _row_counts(block, kept.firings.tokens.shape[1])
            together = np.diff(kept.ends, prepend=0)
            n_pairs += int((together * (together - 1)).sum()) // 2
            n_outputs += int((together * np.diff(kept.firings.next_tokens.indptr)).sum())
        n_next_tokens = sum(len(kept.firings.next_tokens.packed) for kept in self._kept)
        firing_counts = self.firing_counts()
        return Sample(firing_counts, row_counts, self.n_positions, n_next_tokens, n_pairs, n_outputs, 2 * self._bytes)

    @property
    def bytes(self) -> int:
        """Memory that a segment would free, and about as much again while it is written."""
        windows = sum(layer.window_bytes for layer in self.examples)
        return 2 * self._bytes + windows

    def drain(self) -> tuple[GroupedFirings, Positions, dict[int, NDArray[np.int64]]]:
        """Hand over what came in since the last segment and start anew.

        The third result is kind index -> [C, limbs]: exact sums over all tokens, for the kinds that are not zero
        wherever a component does not fire.
        """
        self._kept.sort(key=lambda kept: int(kept.firings.rows[0]))
        totals = self._totals()
        drained = self._group(), self._positions(), totals
        self._clear()
        return drained

    def _totals(self) -> dict[int, NDArray[np.int64]]:
        totals: dict[int, NDArray[np.int64]] = {}

        def add(layer: list[FiringBlock]) -> None:
            for kind in layer[0].row_totals:
                rows = np.concatenate([block.row_totals[kind].sums for block in layer])
                weights = layer[0].row_totals[kind].weights
                out = totals[kind][layer[0].start : layer[0].stop]
                if weights is None:
                    counting.add_row_totals(rows, out)
                else:
                    counting.add_projected_totals(rows, weights.astype(np.float64), out)

        layers = [[kept.blocks[at] for kept in self._kept] for at in range(len(self.examples))] if self._kept else []
        for kind in {kind for layer in layers for kind in layer[0].row_totals}:
            totals[kind] = np.zeros((self.n_components, N_LIMBS), np.int64)
        for_each(add, layers)
        for limbs in totals.values():
            carry(limbs)
        return totals

    def _group(self) -> GroupedFirings:
        indptr = np.concatenate([[0], np.cumsum(self.firing_counts())])
        position, place = np.empty(self.n_firings, np.int32), np.empty(self.n_firings, np.int32)
        values = np.empty((len(self.kinds), self.n_firings), np.float32)
        cursor = indptr[:-1].copy()

        def append(at: int) -> None:
            first_position, first_place = 0, 0
            for kept in self._kept:
                block = kept.blocks[at]
                found = (block.indptr, block.positions, kept.places[at], block.values)
                counting.append_block(position, place, values, *found, first_position, first_place, block.start, cursor)
                first_position += kept.firings.tokens.size
                first_place += len(kept.component_at)

        for_each(append, range(len(self.examples)))
        firsts = np.cumsum([0, *(len(kept.component_at) for kept in self._kept)])
        return GroupedFirings(
            indptr,
            position,
            values,
            np.concatenate([np.empty(0, np.int32), *(kept.component_at for kept in self._kept)]),
            place,
            np.concatenate(
                [np.empty(0, np.int64), *(k.ends + first for k, first in zip(self._kept, firsts, strict=False))]
            ),
        )

    def _positions(self) -> Positions:
        batches = [kept.firings for kept in self._kept]
        pieces = [b.next_tokens for b in batches]
        offsets = np.cumsum([0, *(len(p.packed) for p in pieces)])
        shifted = (p.indptr[1:] + o for p, o in zip(pieces, offsets, strict=False))
        indptr = np.concatenate([np.zeros(1, np.int64), *shifted])
        packed = np.concatenate([np.empty(0, np.uint64), *(p.packed for p in pieces)])
        included = np.concatenate([np.empty(0, np.bool_), *(b.included.reshape(-1) for b in batches)])
        kept_mass = np.empty(self.n_positions, np.int64)
        counting.kept_mass(indptr, packed, kept_mass)
        return Positions(
            tokens=np.concatenate([np.empty(0, np.int32), *(b.tokens.reshape(-1) for b in batches)]),
            included=included,
            row=np.concatenate([np.empty(0, np.int64), *(b.rows for b in batches)]),
            next_tokens=NextTokens(indptr, packed),
            # Rounded probabilities may add up to a hair above one.
            dropped=np.where(included, np.maximum((1 << MASS_UNIT_BITS) - kept_mass, 0), 0),
        )


@dataclass(frozen=True)
class _Kept:
    """Some rows' firings, by component in blocks and by position."""

    firings: Firings
    blocks: list[FiringBlock]
    places: list[NDArray[np.int32]]
    """Per block, where in ``component_at`` each firing lies."""
    component_at: NDArray[np.int32]
    ends: NDArray[np.int64]
    """[positions] end of each position's components."""

    @property
    def bytes(self) -> int:
        """Memory of all arrays that grow with the number of firings or positions."""
        q = self.firings.next_tokens
        of_blocks = sum(b.positions.nbytes + b.values.nbytes + b.indptr.nbytes for b in self.blocks)
        of_totals = sum(totals.sums.nbytes for b in self.blocks for totals in b.row_totals.values())
        return of_blocks + of_totals + q.packed.nbytes + 2 * self.component_at.nbytes + 32 * self.firings.tokens.size


def _keep(firings: Firings) -> _Kept:
    """Group some rows' firings by position as well, while they are in the cache."""
    blocks = list(firings.blocks)
    counts = np.zeros(firings.tokens.size, np.int64)
    for block in blocks:
        counting.count_positions(block.positions, counts)
    ends = np.cumsum(counts)
    cursor = ends - counts
    component_at = np.empty(ends[-1] if len(ends) else 0, np.int32)
    places = [np.empty(len(block.positions), np.int32) for block in blocks]
    for block, place in zip(blocks, places, strict=True):
        counting.by_position(block.start, block.indptr, block.positions, cursor, component_at, place)
    return _Kept(replace(firings, blocks=()), blocks, places, component_at, ends)


def _row_counts(block: FiringBlock, seq: int) -> NDArray[np.int64]:
    """[n] rows in which each component fires."""
    component = np.repeat(np.arange(len(block.indptr) - 1), np.diff(block.indptr))
    row = block.positions // seq
    is_first = np.ones(len(row), bool)
    is_first[1:] = (row[1:] != row[:-1]) | (component[1:] != component[:-1])
    return np.bincount(component[is_first], minlength=len(block.indptr) - 1)


class _NoWindows:
    def fill(
        self,
        out: NDArray[np.float32],
        slots: NDArray[np.int64],
        components: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> None:
        raise AssertionError("the batch's dense activations are gone")


_NO_WINDOWS = _NoWindows()
