"""P-values of an investigation as a whole: who tries many experiments on a component finds something by chance."""

from __future__ import annotations

import math
from collections.abc import Mapping

LEVEL = 0.05
"""What a corrected p-value may be at most, for a label to rest on the result."""


def corrected(p_values: Mapping[str, float]) -> dict[str, float]:
    """Id -> p-value corrected (Holm 1979) for all of a family.

    Every result's own p-value is corrected for what was compared inside its experiment; the family is everything that
    was ever asked about a component of a decomposition: cited or not, with other seeds, on any of its harvests.
    """
    from spd_tools.experiments.statistics import holm

    return dict(zip(p_values, holm(list(p_values.values())), strict=True))


def holds(p_value: float | None) -> bool:
    """Whether a corrected p-value is small enough; not where there is none."""
    return p_value is not None and p_value <= LEVEL + 1e-12


def controls_for(n_results: int) -> int:
    """Smallest K with (n_results + 1) / (K + 1) <= LEVEL.

    A rank among K controls ends at 1 / (K + 1), so this many are enough for one more result beside ``n_results``,
    whatever their p-values are.
    """
    return math.ceil(round((n_results + 1) / LEVEL, 6)) - 1
