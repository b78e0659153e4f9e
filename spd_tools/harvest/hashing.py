"""The hash that every sample comes from: a fixed function of seed, row, position and component.

splitmix64's finaliser (Steele, Lea, Flood 2014), chained over the four numbers. Nothing else is random in a harvest, so
samples depend neither on order nor on sharding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL_1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_LOG_SALT = 0x6C6F67
_ORDER_SALT = 0x6F72646572


@njit(nogil=True, cache=True, inline="always")
def mix(z: Any) -> np.uint64:
    """splitmix64's finaliser."""
    z = (z ^ (z >> _S30)) * _MUL_1
    z = (z ^ (z >> _S27)) * _MUL_2
    return z ^ (z >> _S31)


@njit(nogil=True, cache=True, inline="always")
def chain(state: Any, value: Any) -> np.uint64:
    """Hash state with one more number in it."""
    return mix(state + np.uint64(value) + _GOLDEN)


@njit(nogil=True, cache=True)
def sampling_key(seed: np.uint64, row: np.int64, position: np.int64, component: np.int64) -> np.uint64:
    """64-bit key of one firing; a uniform sample keeps the smallest keys."""
    return chain(chain(chain(mix(seed + _GOLDEN), row), position), component)


def _mix_array(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> _S30)) * _MUL_1
    z = (z ^ (z >> _S27)) * _MUL_2
    return z ^ (z >> _S31)


def _row_hash(seed: int, salt: int, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    start = _mix_array(np.asarray([(seed ^ salt) & 0xFFFFFFFFFFFFFFFF], np.uint64))
    return _mix_array(start + rows.astype(np.uint64) + _GOLDEN)


def logged_rows(seed: int, share: float, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which harvest rows belong to the firing log."""
    if share >= 1:
        return np.ones(len(rows), np.bool_)
    return _row_hash(seed, _LOG_SALT, rows) < np.uint64(int(share * 2**64))


def permuted_rows(seed: int, n_rows: int) -> NDArray[np.int64]:
    """[n_rows] data set rows in the order in which a harvest takes them."""
    rows = np.arange(n_rows, dtype=np.int64)
    return np.argsort(_row_hash(seed, _ORDER_SALT, rows), kind="stable")
