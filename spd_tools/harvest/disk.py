"""How much disk a harvest will need, told from its first batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spd_tools.harvest.plan import HarvestPlan


def estimated_bytes(
    plan: HarvestPlan, n_rows: int, firing_counts: NDArray[np.int64], n_positions: int, n_next_tokens: int
) -> int:
    """Segments and store together, should components fire independently of each other.

    Args:
        plan: sizes and settings.
        n_rows: rows of the harvest.
        firing_counts: [C] firings in the first batch.
        n_positions: positions in the first batch.
        n_next_tokens: probabilities of at least p_min in the first batch.
    """
    config, vocab = plan.config, plan.decomposition.vocab_size
    n_kinds = len(plan.decomposition.kinds)
    positions = n_rows * config.seq_len
    # A component that was not seen may still fire: half a firing in the first batch.
    density = np.maximum(firing_counts, 0.5) / max(1, n_positions)
    firings = density * positions
    logged = min(1.0, config.log_share) * firings.sum() * (8 + 4 * n_kinds)
    window = 32 + 4 * n_kinds * (2 * config.window + 1)
    examples = np.minimum(firings, config.n_uniform).sum() + np.minimum(firings, config.n_top).sum()
    tokens_in = np.minimum(firings, vocab).sum()
    tokens_out = np.minimum(firings * n_next_tokens / max(1, n_positions), vocab).sum()
    # Segments hold 8 bytes a pair, the store both directions of 12, the merge one direction of 12 on the way.
    return int(2 * (logged + examples * window + 12 * (tokens_in + tokens_out)) + 44 * pairs(density, positions))


def pairs(density: NDArray[np.float64], positions: int) -> float:
    """Pairs expected to fire together at least once (an upper bound: min(1, expectation) for each)."""
    density = np.sort(density)
    sums = np.concatenate([[0.0], np.cumsum(density)])
    # For each component, the partners from here on are met at least once on average.
    often = np.searchsorted(density, 1 / (positions * density))
    seldom = positions * density * sums[often]
    return float((seldom + len(density) - often).sum() / 2)
