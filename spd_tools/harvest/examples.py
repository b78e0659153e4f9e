"""Uniform and top examples: two bottom-k sketches per component.

A sketch keeps the k firings with the smallest (rank, key): for uniform examples the rank is constant and the key is
the sampling hash; for top examples the rank falls with |ranking activation| and the hash breaks ties. Bottom-k sketches
merge exactly: the k smallest of a union are the k smallest of the parts' k smallest (Cohen and Kaplan 2007).
"""

from __future__ import annotations

import math
import mmap
import threading
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spd_tools.harvest.firings import FiringBlock
from spd_tools.harvest.hashing import chain, mix
from spd_tools.store.schema import HarvestConfig

ExampleKind = Literal["uniform", "top"]
_Indices = NDArray[np.int64]

# What an entry's slot says: >= 0 a window in the pool, STORED a window in a segment, WANTED - f that the window of the
# block's firing f has yet to be read.
STORED = -1
WANTED = -2
_TOP_RANK = np.uint32(0xFFFFFFFF)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0)
_LOW = np.uint64(0xFFFFFFFF)
_S32 = np.uint64(32)

# A component's heap is [k, 2] uint64: (key, rank << 32 | place), the largest (rank, key) at the root. What belongs to
# an entry (row, position, slot) stays at its place: sifting moves 16 bytes, all in a few cache lines.


@njit(nogil=True, cache=True, inline="always")
def _above(key_a: Any, tag_a: Any, key_b: Any, tag_b: Any) -> Any:
    rank_a, rank_b = tag_a >> _S32, tag_b >> _S32
    return rank_a > rank_b or (rank_a == rank_b and key_a > key_b)


@njit(nogil=True, cache=True)
def _sink(heap: NDArray[Any], key: np.uint64, tag: np.uint64) -> None:
    """Put an entry in the root's stead."""
    at, size = 0, len(heap)
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _above(heap[child + 1, 0], heap[child + 1, 1], heap[child, 0], heap[child, 1]):
            child += 1
        if not _above(heap[child, 0], heap[child, 1], key, tag):
            break
        heap[at, 0], heap[at, 1] = heap[child, 0], heap[child, 1]
        at = child
    heap[at, 0], heap[at, 1] = key, tag


@njit(nogil=True, cache=True)
def _rise(heap: NDArray[Any], at: int, key: np.uint64, tag: np.uint64) -> None:
    """Put an entry into the free place at the end."""
    while at > 0:
        parent = (at - 1) // 2
        if not _above(key, tag, heap[parent, 0], heap[parent, 1]):
            break
        heap[at, 0], heap[at, 1] = heap[parent, 0], heap[parent, 1]
        at = parent
    heap[at, 0], heap[at, 1] = key, tag


@njit(nogil=True, cache=True)
def _offer(heap: NDArray[Any], size: Any, rank: Any, key: Any) -> tuple[Any, Any]:
    """Put an entry into a component's heap if it belongs there: (new size, its place, or -1 when it does not)."""
    k = len(heap)
    tag = np.uint64(rank) << _S32
    if size < k:
        _rise(heap, size, key, tag | np.uint64(size))
        return size + 1, size
    if k == 0 or not _above(heap[0, 0], heap[0, 1], key, tag):
        return size, -1
    place = heap[0, 1] & _LOW
    _sink(heap, key, tag | place)
    return size, np.int64(place)


@njit(nogil=True, cache=True)
def _update(
    seed: np.uint64,
    by_size: bool,
    start: int,
    indptr: NDArray[Any],
    positions: NDArray[Any],
    ranking: NDArray[Any],
    row_ids: NDArray[Any],
    seq: int,
    state: tuple[NDArray[Any], ...],
    wanted: NDArray[Any],
    freed: NDArray[Any],
) -> tuple[Any, Any]:
    """Offer a block's firings. Fills ``wanted`` (component in the block, place) and ``freed`` (slots)."""
    heaps, sizes, rows, places, slots = state
    k = heaps.shape[1]
    n_wanted = 0
    n_freed = 0
    hashes = np.empty(len(row_ids) * seq, np.uint64)
    for r in range(len(row_ids)):
        row_hash = chain(mix(seed + _GOLDEN), row_ids[r])
        for s in range(seq):
            hashes[r * seq + s] = chain(row_hash, s)
    for c in range(len(indptr) - 1):
        heap = heaps[c]
        size = sizes[c]
        for f in range(indptr[c], indptr[c + 1]):
            rank = np.uint32(0)
            if by_size:
                rank = _TOP_RANK - (np.float32(ranking[f]).view(np.uint32) & _MAGNITUDE)
                if size == k and rank > heap[0, 1] >> _S32:
                    continue
            key = chain(hashes[positions[f]], start + c)
            if not by_size and size == k and key >= heap[0, 0]:
                continue
            size, place = _offer(heap, size, rank, key)
            if place < 0:
                continue
            if slots[c, place] > WANTED:
                if slots[c, place] >= 0:
                    freed[n_freed] = slots[c, place]
                    n_freed += 1
                wanted[n_wanted, 0] = c
                wanted[n_wanted, 1] = place
                n_wanted += 1
            r, s = divmod(positions[f], seq)
            rows[c, place], places[c, place] = row_ids[r], s
            slots[c, place] = WANTED - f  # remembers which firing of the block to read
        sizes[c] = size
    return n_wanted, n_freed


@njit(nogil=True, cache=True)
def _accepted(
    wanted: NDArray[Any],
    slots: NDArray[Any],
    free: NDArray[Any],
    block_positions: NDArray[Any],
    n_positions: int,
    out: NDArray[Any],
) -> None:
    """Give windows to what stayed: [4, n] component, firing, position, slot, by position (a counting sort)."""
    starts = np.zeros(n_positions + 1, np.int64)
    for i in range(len(wanted)):
        f = WANTED - slots[wanted[i, 0], wanted[i, 1]]
        starts[block_positions[f] + 1] += 1
    for t in range(n_positions):
        starts[t + 1] += starts[t]
    for i in range(len(wanted)):
        c, place = wanted[i]
        f = WANTED - slots[c, place]
        position = block_positions[f]
        at = starts[position]
        starts[position] = at + 1
        slots[c, place] = free[i]
        out[0, at], out[1, at], out[2, at], out[3, at] = c, f, position, free[i]


class _Pool:
    """Windows of the examples that are not in a segment yet, [slots, kinds, 2 * window + 1].

    Address space for as many as there can be; memory comes with use, from low slots upwards.
    """

    def __init__(self, capacity: int, n_kinds: int, width: int) -> None:
        shape = (capacity, n_kinds, 2 * width + 1)
        memory = mmap.mmap(-1, max(1, 4 * math.prod(shape)), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
        self.values = np.frombuffer(memory, np.float32, math.prod(shape)).reshape(shape)
        self._free = np.arange(capacity)[::-1].copy()  # a stack; the first _n_free entries are valid
        self._n_free = capacity

    @property
    def n_used(self) -> int:
        """Slots in use."""
        return len(self._free) - self._n_free

    def take(self, n: int) -> _Indices:
        self._n_free -= n
        assert self._n_free >= 0
        return self._free[self._n_free : self._n_free + n].copy()

    def give_back(self, slots: _Indices) -> None:
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


@dataclass(frozen=True)
class Accepted:
    """Firings of a block that entered a sketch, by ascending position."""

    component: _Indices
    """[n] within the block."""
    firing: _Indices
    position: _Indices
    slots: _Indices
    """Where their windows go."""


class ExampleSketch:
    """Bottom-k sketches of one layer's components, for one way of ranking."""

    def __init__(
        self, kind: ExampleKind, start: int, n_components: int, k: int, seed: int, n_kinds: int, width: int
    ) -> None:
        self.kind = kind
        self._start = start
        self._seed = np.uint64(seed)
        self._state = (
            np.zeros((n_components, k, 2), np.uint64),
            np.zeros(n_components, np.int64),
            np.zeros((n_components, k), np.int64),
            np.zeros((n_components, k), np.int32),
            np.full((n_components, k), STORED),
        )
        self._pool_shape = (n_components * k, n_kinds, width)
        self._pool = _Pool(*self._pool_shape)

    @property
    def windows(self) -> NDArray[np.float32]:
        """[slots, kinds, 2 * window + 1] of what is not in a segment yet."""
        return self._pool.values

    @property
    def window_bytes(self) -> int:
        """Memory of the windows in use."""
        return self._pool.n_used * self._pool.values[:1].nbytes

    def offer(self, block: FiringBlock, row_ids: _Indices, seq: int) -> Accepted:
        """Offer a block's firings; says which of them stay and need a window."""
        # Every firing of a block can want a place; pages that are not touched cost nothing.
        wanted, freed = np.empty((len(block.positions), 2), np.int64), np.empty(len(block.positions), np.int64)
        n_wanted, n_freed = _update(
            self._seed,
            self.kind == "top",
            block.start,
            block.indptr,
            block.positions,
            block.values[-1],
            row_ids,
            seq,
            self._state,
            wanted,
            freed,
        )
        self._pool.give_back(freed[:n_freed])
        out = np.empty((4, n_wanted), np.int64)
        slots = self._pool.take(n_wanted)
        _accepted(wanted[:n_wanted], self._state[4], slots, block.positions, len(row_ids) * seq, out)
        return Accepted(*out)

    def drain(self) -> ExampleRecords:
        """Hand out everything that is not in a segment yet and count it as stored."""
        heaps, sizes, rows, positions, slots = self._state
        inside = np.arange(slots.shape[1]) < sizes[:, None]
        component, at = np.nonzero(inside)
        place = (heaps[component, at, 1] & _LOW).astype(np.int64)
        fresh = slots[component, place] >= 0
        component, at, place = component[fresh], at[fresh], place[fresh]
        key, rank = heaps[component, at, 0], (heaps[component, at, 1] >> _S32).astype(np.uint32)
        order = np.lexsort((key, rank, component))
        component, place = component[order], place[order]
        records = ExampleRecords(
            component=(self._start + component).astype(np.int32),
            rank=rank[order],
            key=key[order],
            row=rows[component, place],
            position=positions[component, place],
            windows=self._pool.values[slots[component, place]],
        )
        slots[component, place] = STORED
        self._pool = _Pool(*self._pool_shape)
        return records

    def restore(self, lengths: NDArray[np.int64], rank: NDArray[np.uint32], key: NDArray[np.uint64]) -> None:
        """Take up entries that an earlier attempt stored in a segment (their windows stay there).

        Args:
            lengths: [components of the layer] entries of each.
            rank: of the entries, by component.
            key: likewise.
        """
        component = np.repeat(np.arange(len(lengths)), lengths)
        _restore(self._state[0], self._state[1], component, rank, key)


@njit(nogil=True, cache=True)
def _restore(
    heaps: NDArray[Any], sizes: NDArray[Any], component: NDArray[Any], rank: NDArray[Any], key: NDArray[Any]
) -> None:
    for i in range(len(component)):
        c = component[i]
        sizes[c], _ = _offer(heaps[c], sizes[c], rank[i], key[i])


class LayerExamples:
    """Both kinds of examples of one layer. Threads may add at the same time."""

    def __init__(self, config: HarvestConfig, start: int, n_components: int, n_kinds: int) -> None:
        self.start = start
        self.n_components = n_components
        shape = (config.seed, n_kinds, config.window)
        self.sketches = (
            ExampleSketch("uniform", start, n_components, config.n_uniform, *shape),
            ExampleSketch("top", start, n_components, config.n_top, *shape),
        )
        self._lock = threading.Lock()

    @property
    def window_bytes(self) -> int:
        """Memory of windows that are not in a segment yet."""
        return sum(sketch.window_bytes for sketch in self.sketches)

    def add(self, block: FiringBlock, row_ids: NDArray[np.int64], seq: int) -> None:
        """Offer a block's firings and read the windows of those that stay."""
        assert (block.start, block.stop) == (self.start, self.start + self.n_components)
        if not len(block.positions):
            return
        uniform, top = self.sketches
        slot_of = np.full(len(block.positions), -1)
        with self._lock:
            found = uniform.offer(block, row_ids, seq)
            slot_of[found.firing] = found.slots
            block.windows.fill(uniform.windows, found.slots, found.component, found.position)
            found = top.offer(block, row_ids, seq)
            known = slot_of[found.firing]
            read = known >= 0
            top.windows[found.slots[read]] = uniform.windows[known[read]]
            rest = ~read
            block.windows.fill(top.windows, found.slots[rest], found.component[rest], found.position[rest])
