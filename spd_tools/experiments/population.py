"""One component against a population of like ones: where one more of them would lie, and is this one unlike them?

A control interval here is about a single component, not about the mean of the controls: a component that is just like
its controls lies outside with the stated probability, however many controls there are.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spd_tools.experiments.records import CONFIDENCE, Estimate

LEVEL = 1 - CONFIDENCE


def central(values: NDArray[np.floating]) -> Estimate:
    """Mean of what control components do, with the limits between which 95 % of it lies.

    Args:
        values: [components] or [components, things], one number of each control component (for each of some things).

    Returns:
        n are the components. No limits for fewer than 3 of them.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 3:
        return Estimate(value=mean, low=None, high=None, n=n)
    low, high = np.percentile(values, [50 * LEVEL, 100 - 50 * LEVEL])
    # Of very uneven values the mean may lie beyond the percentiles; an interval holds its value.
    return Estimate(value=mean, low=min(float(low), mean), high=max(float(high), mean), n=n)


def prediction(values: NDArray[np.floating], floor: float) -> Estimate:
    """Median of positive numbers of control components, with the 95 % prediction interval of one more component.

    Normal theory on logarithms (mean +- t s sqrt(1 + 1/K)); numbers below ``floor`` count as that.

    Args:
        values: [components]
        floor: smallest number that means anything.
    """
    from scipy.stats import t

    n, median = len(values), float(np.median(values))
    if n < 3:
        return Estimate(value=median, low=None, high=None, n=n)
    logs = np.log(np.maximum(values, floor))
    half = float(t.ppf(1 - LEVEL / 2, n - 1)) * float(logs.std(ddof=1)) * math.sqrt(1 + 1 / n)
    low, high = math.exp(logs.mean() - half), math.exp(logs.mean() + half)
    return Estimate(value=median, low=min(low, median), high=max(high, median), n=n)


def positive_test(value: float, values: NDArray[np.floating], floor: float) -> float:
    """Two-sided p-value: is a positive number unlike those of the control components?

    By rank from the nearer end, which is exact when the component is exchangeable with its controls; see ``_beyond``.

    Args:
        value: of the component.
        values: [components]
        floor: smallest number that means anything; what is below counts as that.
    """
    logs, own = np.log(np.maximum(values, floor)), math.log(max(value, floor))
    tail = min(np.count_nonzero(logs >= own), np.count_nonzero(logs <= own))
    by_rank = min(1.0, 2 * (1 + tail) / (1 + len(values)))
    return by_rank if tail else _beyond(own, logs, by_rank)


def signed_test(value: float, values: NDArray[np.floating]) -> float:
    """Two-sided p-value: is a number that is around zero without effect further from it than those of the controls?

    Args:
        value: of the component.
        values: [components, things]: of each control component, for things that are like the one in question. A
            component counts once: the things share its weight.
    """
    n = len(values)
    share = float(np.mean(np.abs(values) >= abs(value)))
    by_rank = min(1.0, (1 + n * share) / (1 + n))
    return by_rank if share else _beyond(value, values, by_rank)


def _beyond(value: float, values: NDArray[np.floating], by_rank: float) -> float:
    """p-value of what lies beyond all controls.

    Ranks among K controls cannot tell how far beyond: they end at about 1 / K. Where they already reject at 0.05 (so
    that the test stays exact there), Chebyshev's inequality with the controls' spread may make the p-value smaller; it
    holds whatever the form of the distribution.
    """
    spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
    if by_rank > LEVEL * (1 + 1e-9) or not spread:
        return by_rank
    distance = abs(value - float(values.mean())) / (spread * math.sqrt(1 + 1 / len(values)))
    return min(by_rank, 1 / distance**2)
