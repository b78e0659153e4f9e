"""Uniform and top examples: two bottom-k sketches per component.

A sketch keeps the k firings with the smallest (rank, key): for uniform examples the rank is constant and the key is
the sampling hash; for top examples the rank falls with |ranking activation| and the hash breaks ties. Bottom-k sketches
merge exactly: the k smallest of a union are the k smallest of the parts' k smallest (Cohen and Kaplan 2007).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spd_tools.harvest.firings import FiringBlock
from spd_tools.harvest.hashing import chain, mix

ExampleKind = Literal["uniform", "top"]

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
    """Put an entry into a component's heap if it belongs there: (new size, slot set free | STORED | _REJECTED)."""
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
def _update(seed, by_size, start, indptr, positions, ranking, row_ids, seq, heap, sizes, wanted, freed):  # noqa: ANN001, ANN202
    """Offer a block's firings. Fills ``wanted`` (component in the block, place in its heap) and ``freed`` (slots)."""
    ranks, keys, rows, places, slots = heap
    n_wanted = 0
    n_freed = 0
    for c in range(len(indptr) - 1):
        accepted = False
        for f in range(indptr[c], indptr[c + 1]):
            rank = np.uint32(0)
            if by_size:
                rank = _TOP_RANK - (np.float32(ranking[f]).view(np.uint32) & _MAGNITUDE)
                if sizes[c] == keys.shape[1] and rank > ranks[c, 0]:
                    continue
            r, s = divmod(positions[f], seq)
            key = chain(chain(chain(mix(seed + _GOLDEN), row_ids[r]), s), start + c)
            slot = WANTED - f  # remembers which firing of the block to read
            sizes[c], gone = _offer(
                ranks[c], keys[c], rows[c], places[c], slots[c], sizes[c], rank, key, row_ids[r], s, slot
            )
            accepted |= gone != _REJECTED
            if gone >= 0:
                freed[n_freed] = gone
                n_freed += 1
        if accepted:
            for i in range(sizes[c]):
                if slots[c, i] <= WANTED:
                    wanted[n_wanted, 0] = c
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
    """Bottom-k sketches of one layer's components, for one way of ranking. Threads may add at the same time."""

    def __init__(
        self, kind: ExampleKind, start: int, n_components: int, k: int, seed: int, n_kinds: int, width: int
    ) -> None:
        self.kind = kind
        self.start = start
        self.n_components = n_components
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
        self._lock = threading.Lock()

    @property
    def window_bytes(self) -> int:
        """Memory of windows that are not in a segment yet."""
        return self._pool.values.nbytes

    def add(
        self, block: FiringBlock, row_ids: NDArray[np.int64], seq: int, known: NDArray[np.float32] | None = None
    ) -> None:
        """Offer a block's firings and read the windows of those that stay."""
        k = self._heap[1].shape[1]
        if k == 0 or not len(block.positions):
            return
        wanted = np.empty((int(np.minimum(np.diff(block.indptr), k).sum()), 2), np.int64)
        freed = np.empty(len(block.positions), np.int64)
        with self._lock:
            n_wanted, n_freed = _update(
                self._seed,
                self.kind == "top",
                block.start,
                block.indptr,
                block.positions,
                block.values[-1],
                row_ids,
                seq,
                self._heap,
                self._sizes,
                wanted,
                freed,
            )
            self._pool.give_back(freed[:n_freed])
            wanted = wanted[:n_wanted]
            slots = self._pool.take(n_wanted)
            slot_column = self._heap[4]
            firing = WANTED - slot_column[wanted[:, 0], wanted[:, 1]]
            slot_column[wanted[:, 0], wanted[:, 1]] = slots
            position = block.positions[firing].astype(np.int64)
            order = np.argsort(position)  # neighbours share most of what their windows read
            block.windows.fill(self._pool.values, slots[order], wanted[order, 0], position[order])

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
            component=(self.start + component).astype(np.int32),
            rank=ranks[picked],
            key=keys[picked],
            row=rows[picked],
            position=positions[picked],
            windows=self._pool.values[taken],
        )
        slots[picked] = STORED
        self._pool = _Pool(self._pool.values.shape[1], self._pool.values.shape[2] // 2)
        return records

    def restore(self, lengths: NDArray[np.int64], rank: NDArray[np.uint32], key: NDArray[np.uint64]) -> None:
        """Take up entries that an earlier attempt stored in a segment (their windows stay there).

        Args:
            lengths: [components of the layer] entries of each.
            rank: of the entries, by component.
            key: likewise.
        """
        component = np.repeat(np.arange(self.n_components), lengths)
        _restore(*self._heap, self._sizes, component, rank, key, np.int64(0))


@njit(nogil=True, cache=True)
def _restore(ranks, keys, rows, positions, slots, sizes, component, rank, key, zero):  # noqa: ANN001, ANN202
    for i in range(len(component)):
        c = component[i]
        sizes[c], _ = _offer(
            ranks[c], keys[c], rows[c], positions[c], slots[c], sizes[c], rank[i], key[i], zero, zero, STORED
        )
