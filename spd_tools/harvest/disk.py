"""How much disk a harvest can need at most, told after its first batch."""

from __future__ import annotations

from spd_tools.harvest.plan import HarvestPlan


def estimated_bytes(plan: HarvestPlan, n_rows: int, firings_per_position: float) -> int:
    """Upper estimate of segments and store together.

    Args:
        plan: sizes and settings.
        n_rows: rows of the harvest.
        firings_per_position: measured on a batch.
    """
    config = plan.config
    n_components, vocab = plan.n_components, plan.decomposition.vocab_size
    n_kinds = len(plan.decomposition.kinds)
    positions = n_rows * config.seq_len
    firings = positions * firings_per_position
    logged = min(1.0, config.log_share) * firings * (8 + 4 * n_kinds)
    pairs = min(n_components * (n_components - 1) / 2, firings * firings_per_position / 2)
    examples = min(firings * 2, n_components * (config.n_uniform + config.n_top))
    window = 32 + 4 * n_kinds * (2 * config.window + 1)
    tokens_in = min(firings, n_components * vocab) * 12
    tokens_out = min(firings * min(1 / config.p_min, vocab), n_components * vocab) * 12
    # Segments (8 bytes a pair) and store (both directions, 12 bytes each, and one direction while merging).
    store = 2 * logged + pairs * (8 + 12 + 24) + 2 * (examples * window + tokens_in + tokens_out)
    return int(store + positions * 4)
