"""Firings of the batches since the last segment, and what has to be summed before they become sparse counts."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spd_tools.harvest import counting
from spd_tools.harvest.clock import StageClock
from spd_tools.harvest.exact_sums import N_LIMBS, carry
from spd_tools.harvest.examples import ExampleKind, ExampleSketch
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


class FiringBuffer:
    """Takes in rows; what it holds depends only on which rows came, not on how or in what order."""

    def __init__(self, config: HarvestConfig, layers: list[tuple[str, int]], vocab_size: int, kinds: list[str]) -> None:
        self.config = config
        self.kinds = kinds
        self.n_components = sum(n for _, n in layers)
        self.vocab_size = vocab_size
        starts = np.cumsum([0, *(n for _, n in layers)]).tolist()
        self.sketches: dict[ExampleKind, list[ExampleSketch]] = {
            kind: [
                ExampleSketch(kind, start, n, k, config.seed, len(kinds), config.window)
                for start, (_, n) in zip(starts, layers, strict=False)
            ]
            for kind, k in (("uniform", config.n_uniform), ("top", config.n_top))
        }
        self.totals = np.zeros((self.n_components, len(kinds), N_LIMBS), np.int64)
        self.dense_totals = [False] * len(kinds)
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._kept: list[tuple[Firings, list[FiringBlock]]] = []
        self.n_positions = 0
        self.n_firings = 0
        self._bytes = 0

    def add(self, firings: Firings, clock: StageClock) -> None:
        """Take in some rows; their dense activations are no longer needed afterwards. Threads may add at once."""
        seq = firings.tokens.shape[1]
        kept: list[FiringBlock] = []
        for at, block in enumerate(firings.blocks):
            with clock("examples"):
                for sketches in self.sketches.values():
                    assert sketches[at].start == block.start
                    sketches[at].add(block, firings.rows, seq)
            with clock("sums"):
                self._add_totals(block)
            kept.append(replace(block, windows=_NO_WINDOWS, row_totals={}))
        n_firings = sum(len(block.positions) for block in kept)
        q = firings.next_tokens
        n_bytes = q.tokens.nbytes + q.masses.nbytes + q.indptr.nbytes + 16 * firings.tokens.size
        n_bytes += sum(b.positions.nbytes + b.values.nbytes + b.indptr.nbytes for b in kept)
        with self._lock:
            self._kept.append((replace(firings, blocks=()), kept))
            self.n_positions += firings.tokens.size
            self.n_firings += n_firings
            self._bytes += n_bytes

    def _add_totals(self, block: FiringBlock) -> None:
        with self._lock:
            for kind, totals in block.row_totals.items():
                self.dense_totals[kind] = True
                counting.add_row_totals(totals, self.totals[block.start : block.stop, kind])

    @property
    def bytes(self) -> int:
        """Memory that a segment would free, and about as much again while it is written."""
        windows = sum(sketch.window_bytes for sketches in self.sketches.values() for sketch in sketches)
        return 2 * self._bytes + 8 * self.n_firings + windows

    def drain(self) -> tuple[GroupedFirings, Positions, NDArray[np.int64]]:
        """Hand over what came in since the last segment and start anew.

        The third result is [C, kinds, limbs]: exact sums over all tokens, for the kinds with ``dense_totals``.
        """
        self._kept.sort(key=lambda kept: int(kept[0].rows[0]))
        grouped = self._group()
        positions = self._positions()
        totals, self.totals = self.totals, np.zeros_like(self.totals)
        carry(totals.reshape(-1, N_LIMBS))
        self._clear()
        return grouped, positions, totals

    def _group(self) -> GroupedFirings:
        blocks: list[tuple[int, FiringBlock]] = []
        base = 0
        for firings, found in self._kept:
            blocks += [(base, block) for block in found]
            base += firings.tokens.size
        lengths = np.zeros(self.n_components, np.int64)
        for _, block in blocks:
            lengths[block.start : block.stop] += np.diff(block.indptr)
        indptr = np.zeros(self.n_components + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])
        position = np.empty(self.n_firings, np.int32)
        values = np.empty((len(self.kinds), self.n_firings), np.float32)
        cursor = indptr[:-1].copy()
        by_layer: dict[int, list[tuple[int, FiringBlock]]] = defaultdict(list)
        for base, block in blocks:
            by_layer[block.start].append((base, block))

        def append(layer: list[tuple[int, FiringBlock]]) -> None:
            for base, b in layer:
                counting.append_block(position, values, b.indptr, b.positions, b.values, base, b.start, cursor)

        for_each(append, list(by_layer.values()))
        ends = np.cumsum(np.bincount(position, minlength=self.n_positions))
        component_at = np.empty(self.n_firings, np.int32)
        place = np.empty(self.n_firings, np.int32)
        counting.by_position(indptr, position, np.concatenate([[0], ends[:-1]]), component_at, place)
        return GroupedFirings(indptr, position, values, component_at, place, ends)

    def _positions(self) -> Positions:
        batches = [firings for firings, _ in self._kept]
        pieces = [b.next_tokens for b in batches]
        offsets = np.cumsum([0, *(len(p.tokens) for p in pieces)])
        shifted = (p.indptr[1:] + o for p, o in zip(pieces, offsets, strict=False))
        indptr = np.concatenate([np.zeros(1, np.int64), *shifted])
        masses = np.concatenate([np.empty(0, np.int64), *(p.masses for p in pieces)])
        included = np.concatenate([np.empty(0, np.bool_), *(b.included.reshape(-1) for b in batches)])
        kept = np.empty(self.n_positions, np.int64)
        counting.sum_pieces(indptr, masses, kept)
        return Positions(
            tokens=np.concatenate([np.empty(0, np.int32), *(b.tokens.reshape(-1) for b in batches)]),
            included=included,
            row=np.concatenate([np.empty(0, np.int64), *(b.rows for b in batches)]),
            next_tokens=NextTokens(
                indptr, np.concatenate([np.empty(0, np.int32), *(p.tokens for p in pieces)]), masses
            ),
            # Rounded probabilities may add up to a hair above one.
            dropped=np.where(included, np.maximum((1 << MASS_UNIT_BITS) - kept, 0), 0),
        )


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
