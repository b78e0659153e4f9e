"""Components that one is held against: of like density, each changed at places of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.matching import Matched, enough_controls, matched_components
from spd_tools.experiments.population import LEVEL
from spd_tools.experiments.records import LEAST_CONTROLS, Estimate
from spd_tools.experiments.subject import Base
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest


def like_components(
    harvest: Harvest, key: ComponentKey, n: int, base: Base, rng: np.random.Generator
) -> Matched[list[ComponentKey]]:
    """n components of like density that have places of a kind, or all others where they are fewer.

    Args:
        harvest: where they are counted.
        key: what they are like.
        n: how many are asked for.
        base: the places.
        rng: draws them.

    Raises:
        SpdToolsError: where fewer than LEAST_CONTROLS are asked for, or there are fewer.
    """
    enough_controls(n, "n_controls")
    exclude = _without_places(harvest, base)
    usable = harvest.firing_counts > 0
    usable[[harvest.keys.flat(other) for other in (key, *exclude)]] = False
    have = int(np.count_nonzero(usable))
    if have < LEAST_CONTROLS:
        raise SpdToolsError(
            f"Only {have} other components can be compared with {key} in this harvest, and with fewer than "
            f"{LEAST_CONTROLS} no p-value reaches 0.05; harvest more text."
        )
    return matched_components(harvest, key, min(n, have), rng, exclude)


def typical(values: NDArray[np.floating]) -> Estimate:
    """Median of what control components do, with the limits between which 95 % of them lie.

    For numbers that cannot be negative and are very uneven: a KL, a largest change.

    Args:
        values: [components], at least LEAST_CONTROLS.
    """
    low, middle, high = np.percentile(values, [50 * LEVEL, 50, 100 - 50 * LEVEL])
    return Estimate(value=float(middle), low=float(low), high=float(high), n=len(values))


def around_zero(values: NDArray[np.floating]) -> Estimate:
    """Mean of what control components do, with limits at equal distances from 0 between which 95 % of it lies.

    For signed numbers that are around 0 without effect: what lies outside is what ``population.signed_test`` finds.

    Args:
        values: [components, things], of at least LEAST_CONTROLS components.
    """
    limit = float(np.percentile(np.abs(values), 100 - 100 * LEVEL))
    mean = float(np.mean(values))
    # Of very uneven values the mean may lie beyond the percentile; an interval holds its value.
    limit = max(limit, abs(mean))
    return Estimate(value=mean, low=-limit, high=limit, n=len(values))


def _without_places(harvest: Harvest, base: Base) -> list[ComponentKey]:
    """Components that fire and of which no place is known: the log decides, as it does where places are drawn."""
    if base == "silent":
        logged = int(harvest.logged_positions.sum())
        fires = np.flatnonzero(harvest.firing_counts >= logged)
        return [key for key in _keys(harvest, fires) if len(harvest.activations(key)) == logged]
    if base == "firing" and not harvest.manifest.config.n_uniform:
        fires = np.flatnonzero(harvest.firing_counts)
        return [key for key in _keys(harvest, fires) if not len(harvest.activations(key))]
    return []


def _keys(harvest: Harvest, flat: NDArray[np.int64]) -> list[ComponentKey]:
    return [harvest.keys.key(int(one)) for one in flat]
