"""Firings of the batches since the last segment, and what has to be summed before they become sparse counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.harvest import counting
from spd_tools.harvest.clock import StageClock
from spd_tools.harvest.exact_sums import N_LIMBS, carry
from spd_tools.harvest.examples import ExampleSketch
from spd_tools.harvest.firings import MASS_UNIT_BITS, FiringBlock, Firings, NextTokens
from spd_tools.harvest.parallel import even_bounds, n_threads, run_ranges, weighted_bounds
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
    """Takes in batches; what it holds depends only on which rows came, not on how they were batched."""

    def __init__(self, config: HarvestConfig, n_components: int, vocab_size: int, kinds: list[str]) -> None:
        self.config = config
        self.kinds = kinds
        self.n_components = n_components
        self.vocab_size = vocab_size
        shape = (n_components, len(kinds), config.window)
        self.uniform = ExampleSketch("uniform", n_components, config.n_uniform, config.seed, *shape[1:])
        self.top = ExampleSketch("top", n_components, config.n_top, config.seed, *shape[1:])
        self.totals = np.zeros((n_components, len(kinds), N_LIMBS), np.int64)
        self.dense_totals = [False] * len(kinds)
        self._clear()

    def _clear(self) -> None:
        self._blocks: list[tuple[int, FiringBlock]] = []
        self._batches: list[Firings] = []
        self.n_positions = 0
        self.n_firings = 0
        self._bytes = 0

    def add(self, firings: Firings, clock: StageClock) -> None:
        """Take in one batch; its blocks' dense activations are no longer needed afterwards."""
        seq = firings.tokens.shape[1]
        for block in firings.blocks:
            with clock("examples"):
                self.uniform.add(block, firings.rows, seq)
                self.top.add(block, firings.rows, seq)
            with clock("sums"):
                self._add_totals(block)
            kept = FiringBlock(block.start, block.stop, block.indptr, block.positions, block.values, _NO_WINDOWS, {})
            self._blocks.append((self.n_positions, kept))
            self.n_firings += len(block.positions)
            self._bytes += block.positions.nbytes + block.values.nbytes + block.indptr.nbytes
        q = firings.next_tokens
        self._batches.append(Firings(firings.rows, firings.tokens, firings.included, q, ()))
        self.n_positions += firings.tokens.size
        self._bytes += q.tokens.nbytes + q.masses.nbytes + q.indptr.nbytes + 16 * firings.tokens.size

    def _add_totals(self, block: FiringBlock) -> None:
        for kind, totals in block.row_totals.items():
            self.dense_totals[kind] = True
            sums = self.totals[block.start : block.stop, kind]
            run_ranges(
                lambda _, c0, c1, t=totals, s=sums: counting.add_row_totals(t, s, c0, c1),
                even_bounds(block.stop - block.start, n_threads()),
            )

    @property
    def bytes(self) -> int:
        """Memory that a segment would free, and about as much again while it is written."""
        windows = self.uniform.window_bytes + self.top.window_bytes
        return 2 * self._bytes + 8 * self.n_firings + windows

    def drain(self) -> tuple[GroupedFirings, Positions, NDArray[np.int64]]:
        """Hand over what came in since the last segment and start anew.

        The third result is [C, kinds, limbs]: exact sums over all tokens, for the kinds with ``dense_totals``.
        """
        grouped = self._group()
        positions = self._positions()
        totals, self.totals = self.totals, np.zeros_like(self.totals)
        carry(totals.reshape(-1, N_LIMBS))
        self._clear()
        return grouped, positions, totals

    def _group(self) -> GroupedFirings:
        lengths = np.zeros(self.n_components, np.int64)
        for _, block in self._blocks:
            lengths[block.start : block.stop] += np.diff(block.indptr)
        indptr = np.zeros(self.n_components + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])
        position = np.empty(self.n_firings, np.int32)
        values = np.empty((len(self.kinds), self.n_firings), np.float32)
        cursor = indptr[:-1].copy()
        for base, block in self._blocks:
            run_ranges(
                lambda _, c0, c1, b=block, base=base: counting.append_block(
                    position, values, b.indptr, b.positions, b.values, base, b.start, cursor, c0, c1
                ),
                weighted_bounds(np.diff(block.indptr), n_threads()),
            )
        self._blocks = []
        ends = np.cumsum(np.bincount(position, minlength=self.n_positions))
        component_at = np.empty(self.n_firings, np.int32)
        place = np.empty(self.n_firings, np.int32)
        counting.by_position(indptr, position, np.concatenate([[0], ends[:-1]]), component_at, place)
        return GroupedFirings(indptr, position, values, component_at, place, ends)

    def _positions(self) -> Positions:
        batches = self._batches
        pieces = [b.next_tokens for b in batches]
        offsets = np.cumsum([0, *(len(p.tokens) for p in pieces)])
        indptr = np.concatenate(
            [np.zeros(1, np.int64), *(p.indptr[1:] + o for p, o in zip(pieces, offsets, strict=False))]
        )
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
