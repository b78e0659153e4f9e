"""Firings: what one batch leaves behind once the dense activations are gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MASS_UNIT_BITS = 33
"""Output mass is counted in units of 2**-33: exact for every float32 probability >= 2**-10, and so are its sums."""
MASS_BITS = MASS_UNIT_BITS + 1
"""Bits that hold a mass: a probability of one is 2**MASS_UNIT_BITS."""


class WindowSource(Protocol):
    """Where a firing's neighbouring activations come from while the batch is at hand."""

    def fill(
        self,
        out: NDArray[np.float32],
        slots: NDArray[np.int64],
        components: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> None:
        """Write windows into ``out[slots]``.

        Args:
            out: [pool, kinds, 2 * window + 1]; entries outside the row or at excluded positions become NaN.
            slots: [n] where in ``out``.
            components: [n] within the block.
            positions: [n] row in batch * seq + position.
        """
        ...


@dataclass(frozen=True)
class RowTotals:
    """Sums of an activation over each row's included positions: sums, or what is linear in them sums @ weights.T."""

    sums: NDArray[np.float64]
    """[rows, n], or with weights [rows, d_in]"""
    weights: NDArray[np.float32] | None = None
    """[n, d_in]"""


@dataclass(frozen=True)
class FiringBlock:
    """The firings of components start..stop-1 in one batch, grouped by component."""

    start: int
    stop: int
    indptr: NDArray[np.int64]
    """[stop - start + 1] into ``positions``."""
    positions: NDArray[np.int32]
    """[n] row in batch * seq + position, ascending within a component; never an excluded position."""
    values: NDArray[np.float32]
    """[kinds, n]"""
    windows: WindowSource
    row_totals: Mapping[int, RowTotals]
    """kind index -> sums over each row's positions. A kind that is missing here is zero wherever a component does not
    fire."""


@dataclass(frozen=True)
class NextTokens:
    """The model's next-token probabilities of at least p_min, by position."""

    indptr: NDArray[np.int64]
    """[positions + 1]; excluded positions have none."""
    packed: NDArray[np.uint64]
    """token << MASS_BITS | mass: the counting reads each of them about as often as components fire, from main memory.
    The mass is the probability in units of 2**-MASS_UNIT_BITS, rounded to nearest."""

    @staticmethod
    def pack(tokens: NDArray[np.integer], masses: NDArray[np.integer]) -> NDArray[np.uint64]:
        """Token ids (< 2**30) and masses (<= 2**MASS_UNIT_BITS) as ``packed``."""
        return (tokens.astype(np.uint64) << np.uint64(MASS_BITS)) | masses.astype(np.uint64)


@dataclass(frozen=True)
class Firings:
    """Some whole rows. ``blocks``, one per layer in order, may be a generator that runs only once and frees dense
    activations as it goes."""

    rows: NDArray[np.int64]
    """[rows] numbers of the rows within the harvest."""
    tokens: NDArray[np.int32]
    """[rows, seq]"""
    included: NDArray[np.bool_]
    """[rows, seq]; False: padding or excluded."""
    next_tokens: NextTokens
    blocks: Iterable[FiringBlock]
