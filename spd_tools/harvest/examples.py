"""Uniform and top examples: two bottom-k sketches per component.

A sketch keeps the k firings with the smallest (rank, key): for uniform examples the rank is constant and the key is the
sampling hash; for top examples the rank falls with |ranking activation| and the hash breaks ties. Bottom-k sketches merge
exactly: the k smallest of a union are the k smallest of the parts' k smallest (Cohen and Kaplan 2007).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spd_tools.harvest.firings import FiringBlock
from spd_tools.harvest.hashing import chain, mix
from spd_tools.harvest.parallel import n_threads, run_ranges, weighted_bounds

# What a heap entry's slot says: >= 0 a window in the pool, STORED a window in a segment, WANTED - f that the window of
# the block's firing f has yet to be read. _offer hands back the slot of the entry that had to go, or one of the others.
STORED = -1
WANTED = -2
_REJECTED = np.iinfo(np.int64).min
_TOP_RANK = np.uint32(0xFFFFFFFF)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True, cache=True, inline="always")
def _above(rank_a, key_a, rank_b, key_b):  # noqa: ANN001, ANN202
    return rank_a > rank_b or (rank_a == rank_b and key_a > key_b)


@njit(nogil=True, cache=True)
def _sink(ranks, keys, rows, positions, slots, size):  # noqa: ANN001, ANN202
    """Restore the max-heap after its root was replaced."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _above(ranks[child + 1], keys[child + 1], ranks[child], keys[child]):
            child += 1
        if not _above(ranks[child], keys[child], ranks[at], keys[at]):
            return
        _swap(ranks, keys, rows, positions, slots, at, child)
        at = child


@njit(nogil=True, cache=True, inline="always")
def _swap(ranks, keys, rows, positions, slots, a, b):  # noqa: ANN001, ANN202
    ranks[a], ranks[b] = ranks[b], ranks[a]
    keys[a], keys[b] = keys[b], keys[a]
    rows[a], rows[b] = rows[b], rows[a]
    positions[a], positions[b] = positions[b], positions[a]
    slots[a], slots[b] = slots[b], slots[a]


@njit(nogil=True, cache=True)
def _rise(ranks, keys, rows, positions, slots, at):  # noqa: ANN001, ANN202
    while at > 0:
        parent = (at - 1) // 2
        if not _above(ranks[at], keys[at], ranks[parent], keys[parent]):
            return
        _swap(ranks, keys, rows, positions, slots, at, parent)
        at = parent


@njit(nogil=True, cache=True)
def _offer(ranks, keys, rows, positions, slots, size, rank, key, row, position, slot):  # noqa: ANN001, ANN202
    """Put an entry into one component's heap if it belongs there. Returns (new size, slot set free | STORED | _REJECTED)."""
    k = len(keys)
    if size < k:
        ranks[size], keys[size], rows[size], positions[size], slots[size] = rank, key, row, position, slot
        _rise(ranks, keys, rows, positions, slots, size)
        return size + 1, STORED
    if k == 0 or not _above(ranks[0], keys[0], rank, key):
        return size, _REJECTED
    freed = slots[0]
    ranks[0], keys[0], rows[0], positions[0], slots[0] = rank, key, row, position, slot
    _sink(ranks, keys, rows, positions, slots, size)
    return size, freed


@njit(nogil=True, cache=True)
def _update(  # noqa: ANN202
    seed,  # noqa: ANN001
    by_size,  # noqa: ANN001
    start,  # noqa: ANN001
    indptr,  # noqa: ANN001
    positions,  # noqa: ANN001
    ranking,  # noqa: ANN001
    row_ids,  # noqa: ANN001
    seq,  # noqa: ANN001
    heap,  # noqa: ANN001
    sizes,  # noqa: ANN001
    wanted,  # noqa: ANN001
    freed,  # noqa: ANN001
    c0,  # noqa: ANN001
    c1,  # noqa: ANN001
):
    """Offer a block's firings of components c0..c1-1. Fills ``wanted`` (component, place in heap); returns counts."""
    ranks, keys, rows, places, slots = heap
    n_wanted = 0
    n_freed = 0
    for c in range(c0, c1):
        flat = start + c
        accepted = False
        for f in range(indptr[c], indptr[c + 1]):
            rank = np.uint32(0)
            if by_size:
                rank = _TOP_RANK - (np.float32(ranking[f]).view(np.uint32) & _MAGNITUDE)
                if sizes[flat] == keys.shape[1] and rank > ranks[flat, 0]:
                    continue
            r, s = divmod(positions[f], seq)
            key = chain(chain(chain(mix(seed + _GOLDEN), row_ids[r]), s), flat)
            slot = WANTED - f  # remembers which firing of the block to read
            sizes[flat], gone = _offer(
                ranks[flat],
                keys[flat],
                rows[flat],
                places[flat],
                slots[flat],
                sizes[flat],
                rank,
                key,
                row_ids[r],
                s,
                slot,
            )
            accepted |= gone != _REJECTED
            if gone >= 0:
                freed[n_freed] = gone
                n_freed += 1
        if accepted:
            for i in range(sizes[flat]):
                if slots[flat, i] <= WANTED:
                    wanted[n_wanted, 0] = flat
                    wanted[n_wanted, 1] = i
                    n_wanted += 1
    return n_wanted, n_freed


class _Pool:
    """Windows of the examples that are not in a segment yet, [slots, kinds, 2 * window + 1]; grows by doubling."""

    def __init__(self, n_kinds: int, width: int) -> None:
        self.values = np.empty((0, n_kinds, 2 * width + 1), np.float32)
        self._free = np.empty(0, np.int64)  # a stack; the first _n_free entries are valid
        self._n_free = 0

    def take(self, n: int) -> NDArray[np.int64]:
        if n > self._n_free:
            old = len(self.values)
            new = max(2 * old, old + n, 1024)
            values = np.empty((new, *self.values.shape[1:]), np.float32)
            values[:old] = self.values
            self.values = values
            self._free = np.concatenate([np.arange(new - 1, old - 1, -1), self._free[: self._n_free]])
            self._n_free = len(self._free)
            self._free.resize(new, refcheck=False)
        self._n_free -= n
        return self._free[self._n_free : self._n_free + n].copy()

    def give_back(self, slots: NDArray[np.int64]) -> None:
        self._free[self._n_free : self._n_free + len(slots)] = slots
        self._n_free += len(slots)


@dataclass(frozen=True)
class ExampleRecords:
    """Examples as a segment keeps them, ascending by component, then rank, then key."""

    component: NDArray[np.int32]
    rank: NDArray[np.uint32]
    key: NDArray[np.uint64]
    row: NDArray[np.int64]
    position: NDArray[np.int32]
    windows: NDArray[np.float32]
    """[n, kinds, 2 * window + 1], NaN outside the row and at excluded positions."""


class ExampleSketch:
    """Bottom-k sketches of all components, for one way of ranking."""

    def __init__(
        self,
        kind: Literal["uniform", "top"],
        n_components: int,
        k: int,
        seed: int,
        n_kinds: int,
        width: int,
    ) -> None:
        self.kind = kind
        self._seed = np.uint64(seed)
        self._heap = (
            np.zeros((n_components, k), np.uint32),
            np.zeros((n_components, k), np.uint64),
            np.zeros((n_components, k), np.int64),
            np.zeros((n_components, k), np.int32),
            np.zeros((n_components, k), np.int64),
        )
        self._sizes = np.zeros(n_components, np.int64)
        self._pool = _Pool(n_kinds, width)

    @property
    def window_bytes(self) -> int:
        """Memory of windows that are not in a segment yet."""
        return self._pool.values.nbytes

    def add(self, block: FiringBlock, row_ids: NDArray[np.int64], seq: int) -> None:
        """Offer a block's firings and read the windows of those that stay."""
        lengths = np.diff(block.indptr)
        k = self._heap[1].shape[1]
        if k == 0 or not len(block.positions):
            return
        pending: list[NDArray[np.int64]] = []
        freed: list[NDArray[np.int64]] = []
        ranking = block.values[-1]

        def update(_: int, c0: int, c1: int) -> None:
            n = int(block.indptr[c1] - block.indptr[c0])
            wanted = np.empty((int(np.minimum(lengths[c0:c1], k).sum()), 2), np.int64)
            gone = np.empty(n, np.int64)
            n_wanted, n_freed = _update(
                self._seed,
                self.kind == "top",
                block.start,
                block.indptr,
                block.positions,
                ranking,
                row_ids,
                seq,
                self._heap,
                self._sizes,
                wanted,
                gone,
                c0,
                c1,
            )
            pending.append(wanted[:n_wanted])
            freed.append(gone[:n_freed])

        run_ranges(update, weighted_bounds(lengths, n_threads()))
        for slots in freed:
            self._pool.give_back(slots)
        wanted = np.concatenate(pending)
        if not len(wanted):
            return
        slots = self._pool.take(len(wanted))
        slot_column = self._heap[4]
        firing = WANTED - slot_column[wanted[:, 0], wanted[:, 1]]
        slot_column[wanted[:, 0], wanted[:, 1]] = slots
        block.windows.fill(self._pool.values, slots, wanted[:, 0], block.positions[firing].astype(np.int64))

    def drain(self) -> ExampleRecords:
        """Hand out everything that is not in a segment yet and count it as stored."""
        ranks, keys, rows, positions, slots = self._heap
        component, place = np.nonzero((slots >= 0) & (np.arange(slots.shape[1]) < self._sizes[:, None]))
        picked = (component, place)
        order = np.lexsort((keys[picked], ranks[picked], component))
        component, place = component[order], place[order]
        picked = (component, place)
        taken = slots[picked]
        records = ExampleRecords(
            component=component.astype(np.int32),
            rank=ranks[picked],
            key=keys[picked],
            row=rows[picked],
            position=positions[picked],
            windows=self._pool.values[taken],
        )
        slots[picked] = STORED
        self._pool = _Pool(self._pool.values.shape[1], self._pool.values.shape[2] // 2)
        return records

    def restore(self, component: NDArray[np.int32], rank: NDArray[np.uint32], key: NDArray[np.uint64]) -> None:
        """Take up entries that an earlier attempt stored in a segment (their windows stay there)."""
        ranks, keys, _rows, _positions, slots = self._heap
        zero = np.int64(0)
        _restore(ranks, keys, _rows, _positions, slots, self._sizes, component, rank, key, zero)


@njit(nogil=True, cache=True)
def _restore(ranks, keys, rows, positions, slots, sizes, component, rank, key, zero):  # noqa: ANN001, ANN202
    for i in range(len(component)):
        c = component[i]
        sizes[c], _ = _offer(
            ranks[c], keys[c], rows[c], positions[c], slots[c], sizes[c], rank[i], key[i], zero, zero, STORED
        )
