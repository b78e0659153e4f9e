"""All that is drawn here is a hash of what it is drawn for: nothing depends on the order in which things are drawn."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL_1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def mixed(numbers: NDArray[Any]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea, Flood 2014) of every number."""
    z = numbers.astype(np.uint64) + _GOLDEN
    z = (z ^ (z >> _S30)) * _MUL_1
    z = (z ^ (z >> _S27)) * _MUL_2
    return z ^ (z >> _S31)


def state_of(*purpose: object) -> int:
    """64 bits that depend on the purpose alone."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, purpose)).encode()).digest()[:8], "little")


def draw(state: int, n: int, below: int) -> NDArray[np.int64]:
    """[n] numbers in 0..below-1, with replacement; the first ones are the same whatever n is."""
    hashes = mixed(np.arange(n, dtype=np.uint64) * _GOLDEN + np.uint64(state))
    return (hashes % np.uint64(below)).astype(np.int64)


def shuffled(state: int, numbers: NDArray[np.int64], most: int | None = None) -> NDArray[np.int64]:
    """Distinct numbers in the order of their hashes: a random order that does not depend on which others there are.

    Args:
        state: of the order.
        numbers: [n] 0 or above.
        most: only the first so many.
    """
    hashes = mixed(mixed(numbers) ^ np.uint64(state))
    if most is None or most >= len(numbers):
        return numbers[np.argsort(hashes, kind="stable")]
    first = np.argpartition(hashes, most)[:most]
    return numbers[first[np.argsort(hashes[first], kind="stable")]]
