"""Sums of floats without rounding, hence independent of order and sharding.

A Kulisch accumulator (Kulisch 2002): a wide fixed-point number in units of 2**-149, the smallest float32, held as
32-bit limbs in int64. Every float32 enters exactly; of a float64 what lies below 2**-149 is cut off. It is rounded
once, at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

N_LIMBS = 12
_UNIT_EXPONENT = -149
_BIAS = 1075 + _UNIT_EXPONENT  # a float64 is mantissa * 2**(exponent field - 1075)
_LIMB = (1 << 32) - 1


@njit(nogil=True, cache=True, inline="always")
def add_exactly(limbs: NDArray[Any], value: Any) -> None:
    """limbs += value (finite, |value| < 2**200). At most 2**30 additions between two calls of ``carry``."""
    bits = np.float64(value).view(np.int64)
    exponent = (bits >> 52) & 0x7FF
    if exponent == 0:
        return  # zero, or a float64 subnormal
    mantissa = (bits & 0xFFFFFFFFFFFFF) | 0x10000000000000
    shift = exponent - _BIAS
    if shift < 0:
        mantissa = mantissa >> min(-shift, 63)
        shift = 0
    sign = -1 if bits < 0 else 1
    at = shift >> 5
    shift &= 31
    low = (mantissa & _LIMB) << shift
    high = (mantissa >> 32) << shift
    limbs[at] += sign * (low & _LIMB)
    limbs[at + 1] += sign * ((low >> 32) + (high & _LIMB))
    limbs[at + 2] += sign * (high >> 32)


@njit(nogil=True, cache=True)
def carry(limbs: NDArray[Any]) -> None:
    """Bring all limbs but the last of [n, N_LIMBS] accumulators below 2**32 in place."""
    for i in range(limbs.shape[0]):
        for at in range(N_LIMBS - 1):
            over = limbs[i, at] >> 32
            limbs[i, at] -= over << 32
            limbs[i, at + 1] += over


def to_float(limbs: NDArray[np.int64]) -> NDArray[np.float64]:
    """The accumulated sums, each rounded once to nearest.

    Args:
        limbs: [..., N_LIMBS]
    """
    out = np.zeros(limbs.shape[:-1])
    flat: Any = limbs.reshape(-1, N_LIMBS)
    for i in np.flatnonzero(flat.any(-1)).tolist():
        total = sum(limb << (32 * at) for at, limb in enumerate(flat[i].tolist()))
        # Division of integers rounds correctly, whatever their size.
        out.reshape(-1)[i] = total / (1 << -_UNIT_EXPONENT)
    return out
