"""One thing against a population of like ones: where would one more of them lie, and is this one unlike them?

The things are tokens or components, with one number each, and what a test compares is the thing: many contexts make its
number sharper, not the test. If the thing is like its controls, the K + 1 numbers are exchangeable, whatever their
distribution and however they depend on each other through the contexts that they share. Each p-value here is the
rank of a statistic that treats all K + 1 alike, hence at most alpha with probability at most alpha; none is below
1 / (K + 1). Numbers that differ by rounding only are tied, and ties count as at least as far.

A control interval likewise is that of one more of the controls, not of their mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from spd_tools.experiments.records import CONFIDENCE, Estimate
from spd_tools.experiments.statistics import PERMUTATIONS, ROUNDING

LEVEL = 1 - CONFIDENCE
_FEW_SUBSETS = 10_000  # up to so many are all tried
_CHUNK = 512  # subsets drawn at once

Groups = Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]]
"""Of each group, candidates [m] and controls [K]: a candidate is compared with the controls of its own group."""


# --- intervals --------------------------------------------------------------------------------------------------------


def central(values: NDArray[np.floating]) -> Estimate:
    """Mean of what controls do, with the limits between which 95 % of it lies.

    Args:
        values: [controls] or [controls, things], one number of each control (for each of some things).

    Returns:
        n are the controls. No limits for fewer than 3 of them.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 3:
        return Estimate(value=mean, low=None, high=None, n=n)
    low, high = np.percentile(values, [50 * LEVEL, 100 - 50 * LEVEL])
    # Of very uneven values the mean may lie beyond the percentiles; an interval holds its value.
    return Estimate(value=mean, low=min(float(low), mean), high=max(float(high), mean), n=n)


def grouped_control(groups: Groups, rng: np.random.Generator) -> Estimate:
    """Mean of what control tokens do, with the limits between which 95 % of the means of as many lie as are candidates.

    Of one candidate it is ``central``. Else sets of as many tokens as each group has candidates are drawn from its
    controls with replacement, and their distances from the controls' mean are widened by sqrt(1 + m / K), as that mean
    is itself one of K tokens.

    Args:
        groups: of the candidates only the number counts.
        rng: draws sets.

    Returns:
        The value is the mean over candidates of the mean of the controls of each; n are the controls of one group. No
        limits for fewer than 3 of them.
    """
    sizes = [len(candidates) for candidates, _ in groups]
    if sizes == [1]:
        return central(groups[0][1])
    total, n = sum(sizes), len(groups[0][1])
    mean = sum(size * float(np.mean(controls)) for size, (_, controls) in zip(sizes, groups, strict=True)) / total
    if n < 3:
        return Estimate(value=mean, low=None, high=None, n=n)
    sums = np.zeros(PERMUTATIONS)
    for size, (_, controls) in zip(sizes, groups, strict=True):
        centred = (controls - np.mean(controls)) * math.sqrt(1 + size / len(controls))
        for at in range(0, PERMUTATIONS, _CHUNK):
            picks = rng.integers(0, len(controls), (min(_CHUNK, PERMUTATIONS - at), size))
            sums[at : at + len(picks)] += centred[picks].sum(1)
    low, high = (float(mean + bound / total) for bound in np.percentile(sums, [50 * LEVEL, 100 - 50 * LEVEL]))
    return Estimate(value=mean, low=min(low, mean), high=max(high, mean), n=n)


def simultaneous_band(controls: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Limits within which the profile of one more control stays at every column at once, 95 % of the time.

    The profiles whose p-values in ``profile_p_values`` are above 0.05, the statistics of the controls being taken as
    they are without it: mean +- h per column.

    Args:
        controls: [K, D], K >= LEAST_CONTROLS.

    Returns:
        (low [D], high [D])
    """
    controls = np.asarray(controls, np.float64)
    k, centre = len(controls), controls.mean(0)
    scaled, spread = _scaled(controls)
    largest = float(np.sort(scaled.max(1))[min(k, math.ceil(CONFIDENCE * (k + 1) - 1e-9)) - 1])
    # What lies h from the mean of K numbers is one of K + 1 that lies ``largest`` of their standard deviations away.
    half = largest * spread * math.sqrt((k + 1) / (k - largest**2))  # of K numbers none lies sqrt(K - 1) away
    return centre - half, centre + half


# --- tests ------------------------------------------------------------------------------------------------------------


def rank_test(value: float, controls: NDArray[np.floating]) -> float:
    """Two-sided p-value: is one token farther from the middle of all than its controls?

    The middle is the mean of all K + 1 numbers, to which each contributes alike.

    Args:
        value: of the token.
        controls: [K]
    """
    pooled = np.concatenate([[value], np.asarray(controls, np.float64)])
    away = np.abs(pooled - pooled.mean())
    return _rank(away, ROUNDING * float(np.abs(pooled).max()))


def greater_test(value: float, controls: NDArray[np.floating], floor: float = 0.0) -> float:
    """One-sided p-value: is a number that cannot be negative greater than those of the controls?

    Args:
        value: of the component; what is smaller than its controls is no finding.
        controls: [K]
        floor: smallest number that means anything; what is below counts as that.
    """
    bound = max(value, floor) * (1 - ROUNDING)
    return float((1 + np.count_nonzero(np.maximum(controls, floor) >= bound)) / (1 + len(controls)))


def signed_test(value: float, values: NDArray[np.floating]) -> float:
    """Two-sided p-value: is a number that is around zero without effect further from it than those of the controls?

    Args:
        value: of the component.
        values: [components, things]: of each control component, for things that are like the one in question. A
            component counts once: the things share its weight.
    """
    n = len(values)
    share = float(np.mean(np.abs(values) >= abs(value) * (1 - ROUNDING)))
    return (1 + n * share) / (1 + n)


def grouped_test(groups: Groups, rng: np.random.Generator) -> float:
    """Two-sided p-value: are the candidates as a set unlike their controls?

    Statistic: |sum over all candidates of the distance from the mean of their group's candidates and controls|, over
    which m of the m + K tokens of each group are the candidates: all choices where they are few, else 4,999 random ones
    and the observed one (Phipson and Smyth 2010). Of one group that is |mean of the candidates - mean of the controls|,
    and of one candidate ``rank_test``.

    Args:
        groups: candidates and controls of each.
        rng: draws subsets.
    """
    sizes = [len(candidates) for candidates, _ in groups]
    pooled = [np.concatenate([*pair]).astype(np.float64) for pair in groups]
    centred = [values - values.mean() for values in pooled]
    observed = abs(sum(float(values[:size].sum()) for values, size in zip(centred, sizes, strict=True)))
    tolerance = ROUNDING * max(float(np.abs(values).max()) for values in pooled) * sum(sizes)
    if math.prod(math.comb(len(values), size) for values, size in zip(centred, sizes, strict=True)) <= _FEW_SUBSETS:
        every = [
            [sum(pick) for pick in combinations(values, size)] for values, size in zip(centred, sizes, strict=True)
        ]
        sums = np.array([sum(pick) for pick in product(*every)])
        return float(np.mean(np.abs(sums) >= observed - tolerance))
    sums = np.zeros(PERMUTATIONS)
    for values, size in zip(centred, sizes, strict=True):
        sums += np.concatenate([part[:, :size].sum(1) for part in _shuffled(values, rng)])
    return float((1 + np.count_nonzero(np.abs(sums) >= observed - tolerance)) / (1 + PERMUTATIONS))


def profile_p_values(candidate: NDArray[np.floating], controls: NDArray[np.floating]) -> NDArray[np.float64]:
    """Is the profile of one token over D columns (distances, say) unlike those of its controls, and in which columns?

    Deviations from the mean of all K + 1 profiles are divided by the standard deviation of all K + 1 in that column; a
    token's statistic is its largest one. The p-value of a column is the rank of the candidate's deviation there among
    the statistics of the controls (Westfall and Young 1993, single step).

    Args:
        candidate: [D]
        controls: [K, D]

    Returns:
        [D] p-values, corrected for all columns; the smallest is that of the whole profile.
    """
    scaled, _ = _scaled(_together(candidate, controls))
    own, largest = scaled[0], scaled[1:].max(1)
    return (1 + (largest[:, None] >= own * (1 - 1e-9)).sum(0)) / (1 + len(largest))


def scaled_deviations(candidate: NDArray[np.floating], controls: NDArray[np.floating]) -> NDArray[np.float64]:
    """[D] how far a token lies from the mean of all, in standard deviations of all, as ``profile_p_values`` has it.

    Args:
        candidate: [D]
        controls: [K, D]
    """
    return _scaled(_together(candidate, controls))[0][0]


def _together(candidate: NDArray[np.floating], controls: NDArray[np.floating]) -> NDArray[np.float64]:
    """[1 + K, D]"""
    return np.concatenate([np.asarray(candidate)[None], controls]).astype(np.float64)


def _scaled(profiles: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|deviations from the mean| of each column in its standard deviations, and these; no rounding is a deviation."""
    floor = ROUNDING * float(np.abs(profiles).max(initial=0))
    away = np.abs(profiles - profiles.mean(0))
    away[away <= floor] = 0
    spread = profiles.std(0)
    return away / np.maximum(spread, max(floor, np.finfo(float).tiny)), spread


def _rank(away: NDArray[np.float64], tolerance: float) -> float:
    """Rank of the first among all."""
    return float(np.mean(away >= away[0] - tolerance))


def _shuffled(values: NDArray[np.float64], rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """PERMUTATIONS orders of some values, a block [some, values] at a time."""
    for at in range(0, PERMUTATIONS, _CHUNK):
        yield rng.permuted(np.tile(values, (min(_CHUNK, PERMUTATIONS - at), 1)), axis=1)
