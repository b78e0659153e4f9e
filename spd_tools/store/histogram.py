"""Bins of the ranking activation's histogram: sign x 8 bins per octave, read off the float's bits.

Bin b >= 0 holds positive values, bin -1 - b the negative ones of the same magnitude. Magnitude bin 0 is the underflow
(|a| < 2**LOWEST_EXPONENT, zero included), bin N_MAGNITUDES - 1 the overflow (|a| >= 2**HIGHEST_EXPONENT); bin
1 + 8 k + m holds 2**(LOWEST_EXPONENT + k) * [1 + m / 8, 1 + (m + 1) / 8).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOWEST_EXPONENT = -32
HIGHEST_EXPONENT = 32
N_MAGNITUDES = 8 * (HIGHEST_EXPONENT - LOWEST_EXPONENT) + 2
FIRST_CODE = (127 + LOWEST_EXPONENT) * 8
"""Top 12 bits (sign dropped: exponent and three mantissa bits) of the smallest float in bin 1."""
EFFECTIVE_PERCENTILE = 99.5
"""Percentile of |ranking activation| at firings that counts as a component's effective maximum."""


def magnitude_bins(values: NDArray[np.float32]) -> NDArray[np.int16]:
    """Signed bin of each value (float32, finite)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    code = ((bits & 0x7FFFFFFF) >> 20).astype(np.int32) - FIRST_CODE + 1
    magnitude = np.clip(code, 0, N_MAGNITUDES - 1)
    return np.where(bits >> 31 == 1, -1 - magnitude, magnitude).astype(np.int16)


def bin_edges(bin_: int) -> tuple[float, float]:
    """(low, high) of a signed bin; low <= a < high for positive bins, low < a <= high for negative ones."""
    if bin_ < 0:
        low, high = bin_edges(-1 - bin_)
        return -high, 0.0 - low
    if bin_ == 0:
        return 0.0, 2.0**LOWEST_EXPONENT
    if bin_ == N_MAGNITUDES - 1:
        return 2.0**HIGHEST_EXPONENT, float("inf")
    octave, eighth = divmod(bin_ - 1, 8)
    scale = 2.0 ** (LOWEST_EXPONENT + octave)
    return scale * (1 + eighth / 8), scale * (1 + (eighth + 1) / 8)


def effective_max(values: NDArray[np.float32]) -> np.float32 | None:
    """99.5th percentile of |a| (linear between order statistics, in float64); None for no values."""
    if not len(values):
        return None
    return np.float32(np.percentile(np.abs(values).astype(np.float64), EFFECTIVE_PERCENTILE))
