"""Where in the rows a component fires."""

from __future__ import annotations

import numpy as np

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
    token = harvest.activations(key).token
    # Twice as fast as the remainder.
    at = token - token // harvest.seq_len * harvest.seq_len
    firings = np.bincount(at, minlength=harvest.seq_len)
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
