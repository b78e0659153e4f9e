"""Where in the rows a component fires."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spd_tools.analysis.regions import blocks
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import Record


class PositionRange(Record):
    """Logged tokens at positions first to last of their rows."""

    first: int
    last: int
    """Inclusive."""
    n_tokens: int
    """Logged tokens there that count, firing or not."""
    firing_count: int
    density: float
    """firing_count / n_tokens."""


def positions(harvest: Harvest, key: str | ComponentKey) -> list[PositionRange]:
    """Density at position 0, 1, 2-3, 4-7, ... of the logged rows; ranges without a counted token are left out.

    Raises:
        SpdToolsError: for an unknown component.
    """
    firings = _firings(harvest, harvest.activations(key).token)
    counted = harvest.logged_positions
    found = []
    first = 0
    while first < harvest.seq_len:
        end = min(max(1, 2 * first), harvest.seq_len)
        n_tokens, count = int(counted[first:end].sum()), int(firings[first:end].sum())
        if n_tokens:
            found.append(
                PositionRange(
                    first=first, last=end - 1, n_tokens=n_tokens, firing_count=count, density=count / n_tokens
                )
            )
        first = end
    return found


def _firings(harvest: Harvest, token: NDArray[np.int64]) -> NDArray[np.int64]:
    """[seq] logged firings at each position of a row."""
    seq_len = harvest.seq_len
    # A quotient of 32 bits takes half the time of one of 64; the difference a fifth of that of the remainder.
    narrow = np.int32 if harvest.n_rows * seq_len <= np.iinfo(np.int32).max else np.int64
    firings = np.zeros(seq_len, np.int64)
    for part in blocks(len(token)):
        at = token[part].astype(narrow)
        at -= at // seq_len * seq_len
        firings += np.bincount(at, minlength=seq_len)
    return firings
