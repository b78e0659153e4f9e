"""How much disk a harvest will need, told from its first batches.

Segments take most of it where components are sparse: what two of them count hardly coincides, so that each has its own
entry for nearly every firing, pair and token, and every segment has its exact sums of all components besides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.harvest.buffer import Sample
from spd_tools.harvest.exact_sums import N_LIMBS
from spd_tools.harvest.plan import HarvestPlan
from spd_tools.store.histogram import N_MAGNITUDES

MOST_OVER = 5
"""Bounds are at most so many times what is taken, as far as tests have seen."""
_FILE_BYTES = 1 << 14
"""Of a file on top of its entries: the index of a segment, the schema of a table."""
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Entries:
    """Sparse entries of the counts of some positions."""

    pairs: float
    inputs: float
    outputs: float
    bins: float


class DiskEstimate:
    """Upper bounds, should the batches to come be like those in the sample.

    Within that, components may fire together more often than independent ones, and those that were not seen may fire.
    """

    def __init__(self, plan: HarvestPlan, n_rows: int, sample: Sample) -> None:
        """
        Args:
            plan: sizes and settings.
            n_rows: rows of the harvest.
            sample: of its firings, from at least one batch.
        """
        self._plan = plan
        self._n_rows = n_rows
        self._sample = sample
        self._n_kinds = len(plan.decomposition.kinds)
        self._positions = n_rows * plan.config.seq_len
        self._density = _density(sample)
        self._firings: _Floats = self._density * self._positions

    def n_segments(self, memory_bytes: int, seconds: float, checkpoint_seconds: float) -> int:
        """Of all ranks together: one at each rank's end, and one whenever memory is full or a checkpoint is due.

        Args:
            memory_bytes: at which a segment is written.
            seconds: of one batch; 0: not known yet.
            checkpoint_seconds: at which a segment is written.
        """
        config = self._plan.config
        windows = self._examples(config.n_batches) * self._window_bytes
        through_memory = self._sample.bytes * self._positions / self._sample.n_positions + windows
        by_memory = through_memory / max(1, memory_bytes)
        by_time = math.inf if checkpoint_seconds <= 0 else config.n_batches * seconds / checkpoint_seconds
        return int(min(by_memory + by_time + config.world_size, config.n_batches))

    def bytes(self, n_segments: int) -> int:
        """Segments, store, and what the merge needs on its way, all of which are on the disk at once."""
        store = self._entries(self._positions)
        merging = 12 * store.pairs  # one direction, beside the segments and the store
        return int(self._segments(n_segments) + self._store(store) + merging)

    def _segments(self, n: int) -> float:
        """``segment`` says which sections there are."""
        of_one = self._entries(self._positions / n)
        sparse = 8 * of_one.pairs + 8 * of_one.inputs + 12 * of_one.outputs + 8 * of_one.bins
        indptrs = 7  # pairs, input, output, histogram, log, uniform, top
        of_component = 8 * (2 + indptrs + 3 * self._n_kinds * N_LIMBS)  # besides: firing_count and dropped; sums
        dense = of_component * self._n_components + 16 * self._vocab + _FILE_BYTES
        examples = (24 + self._window_bytes) * self._examples(n)
        return n * (sparse + dense) + self._logged + examples

    def _store(self, entries: _Entries) -> float:
        """``store.schema`` says which files there are."""
        config = self._plan.config
        tokens = self._positions * ((2 if self._vocab <= 1 << 16 else 4) + 1) + 20 * self._n_rows
        counts = 24 * entries.pairs + 12 * (entries.inputs + entries.outputs) + 10 * entries.bins
        offsets_and_sums = (128 + 40 * self._n_kinds) * self._n_components + 16 * self._vocab
        kept = sum(float(np.minimum(self._firings, k).sum()) for k in (config.n_uniform, config.n_top))
        # A list has an offset, and a bit for each value that is there.
        examples = kept * (16 + 4 * self._n_kinds + 33 / 32 * self._window_bytes)
        return tokens + counts + offsets_and_sums + self._logged + examples + 12 * _FILE_BYTES

    def _entries(self, positions: float) -> _Entries:
        firings = self._firings * positions / self._positions
        sample = self._sample
        # At least the mean over all positions, for those components that were not seen.
        per_firing = max(
            sample.n_outputs / max(1, sample.firing_counts.sum()), sample.n_next_tokens / sample.n_positions
        )
        return _Entries(
            pairs=pairs(self._density, positions * self._togetherness()),
            inputs=float(np.minimum(firings, self._vocab).sum()),
            outputs=float(np.minimum(firings * per_firing, self._vocab).sum()),
            bins=float(np.minimum(firings, 2 * N_MAGNITUDES).sum()),
        )

    def _togetherness(self) -> float:
        """How many times more pairs fire together in the sample than would independently; at least 1."""
        density = self._sample.firing_counts / self._sample.n_positions
        expected = self._sample.n_positions * (density.sum() ** 2 - (density**2).sum()) / 2
        return max(1.0, self._sample.n_pairs / expected) if expected > 0 else 1.0

    def _examples(self, n_segments: int) -> float:
        """Most examples in segments. The s-th segment of a rank has a firing in the sketch with chance k / (s firings
        of a segment): k (1 + 1/2 + 1/3 + ...) of each kind."""
        config = self._plan.config
        of_rank = 1 + math.log(max(1.0, n_segments / config.world_size))
        most = [config.world_size * k * of_rank for k in (config.n_uniform, config.n_top)]
        return sum(float(np.minimum(self._firings, k).sum()) for k in most)

    @property
    def _logged(self) -> float:
        """Bytes of the log. Rows are chosen by hash: the share may be exceeded by chance."""
        expected = min(1.0, self._plan.config.log_share) * self._n_rows
        rows = min(self._n_rows, expected + 4 * math.sqrt(expected) + 1)
        return rows / self._n_rows * float(self._firings.sum()) * (8 + 4 * self._n_kinds) + 8 * rows

    @property
    def _window_bytes(self) -> int:
        return 4 * self._n_kinds * (2 * self._plan.config.window + 1)

    @property
    def _n_components(self) -> int:
        return self._plan.n_components

    @property
    def _vocab(self) -> int:
        return self._plan.decomposition.vocab_size


def _density(sample: Sample) -> _Floats:
    """[C] as in the sample; what was not seen there shares what Good and Turing's estimate leaves for it.

    The next row shows as many new components as there are seen in one row only, over the number of rows (Good 1953):
    their firings are those of the unseen ones. Rows, not positions, since firings come in clusters. At two standard
    deviations above the count, and three; and at most half a firing for each.
    """
    counts = sample.firing_counts.astype(np.float64)
    once = sample.row_counts == 1
    n_once, n_unseen = int(once.sum()), int((counts == 0).sum())
    of_one = counts[once].mean() if n_once else 1.0
    unseen = (n_once + 2 * math.sqrt(n_once) + 3) * of_one
    return np.where(counts > 0, counts, min(0.5, unseen / max(1, n_unseen))) / sample.n_positions


def pairs(density: NDArray[np.float64], positions: float) -> float:
    """Pairs expected to fire together at least once (an upper bound: min(1, expectation) for each)."""
    density = np.sort(density)
    sums = np.concatenate([[0.0], np.cumsum(density)])
    # For each component, the partners from here on are met at least once on average.
    often = np.searchsorted(density, 1 / (positions * density))
    seldom = positions * density * sums[often]
    return float((seldom + len(density) - often).sum() / 2)
