"""Intervals and tests that the experiments share. Everything random takes a generator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spd_tools.experiments.records import CONFIDENCE, Estimate

BOOTSTRAP_DRAWS = 2000
PERMUTATIONS = 4999
_PROFILE_PERMUTATIONS = 999  # of whole matrices
_BLOCK_BYTES = 1 << 25
ROUNDING = 1e-6
"""Responses that differ by less than this share of the largest one do not differ: batches of other shapes round so."""
QUANTILE = 1.959963984540054
"""Of the normal distribution, for CONFIDENCE."""


def bootstrap_mean(values: NDArray[np.floating], rng: np.random.Generator) -> Estimate | None:
    """Mean with a percentile bootstrap interval (Efron 1979); None without observations, no interval for one.

    Percentiles are widened by sqrt(n / (n - 1)), without which small samples give intervals that are too short.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if not n:
        return None
    mean = float(values.mean())
    if n == 1:
        return Estimate(value=mean, low=None, high=None, n=1)
    means = np.empty(BOOTSTRAP_DRAWS)
    step = max(1, _BLOCK_BYTES // (8 * n))
    for at in range(0, BOOTSTRAP_DRAWS, step):
        draws = rng.integers(0, n, (min(step, BOOTSTRAP_DRAWS - at), n))
        means[at : at + step] = values[draws].mean(1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    widen = math.sqrt(n / (n - 1))
    # A mean lies between the smallest and the largest value: what cannot be negative stays so.
    low = max(mean - widen * (mean - float(low)), float(values.min()))
    high = min(mean + widen * (float(high) - mean), float(values.max()))
    return Estimate(value=mean, low=min(low, mean), high=max(high, mean), n=n)


def exchange_test(candidate: NDArray[np.floating], controls: NDArray[np.floating], rng: np.random.Generator) -> float:
    """Two-sided p-value: does the candidate differ from its controls?

    Under the null, which of a context's 1 + k values is the candidate's is arbitrary; that choice is redrawn in every
    context (a randomisation test, exact whatever the distribution; the +1 counts the observed choice: Phipson and
    Smyth 2010). Differences within ``ROUNDING`` are none.

    Args:
        candidate: [contexts]
        controls: [contexts, k]
        rng: draws the permutations.
    """
    values = np.concatenate([np.asarray(candidate, np.float64)[:, None], np.asarray(controls, np.float64)], 1)
    n, width = values.shape
    if not n or width < 2:
        return 1.0
    centred = values - values.mean(1, keepdims=True)
    centred[np.abs(centred) <= ROUNDING * np.abs(values).max()] = 0
    observed = abs(centred[:, 0].sum())
    if not centred.any():
        return 1.0
    picks = rng.integers(0, width, (PERMUTATIONS, n))
    sums = np.abs(centred[np.arange(n), picks].sum(1))
    return _share_as_large(sums, observed, float(np.abs(centred).sum()))


def sign_flip_test(values: NDArray[np.floating], rng: np.random.Generator) -> float:
    """Two-sided p-value of mean zero for values that under the null are symmetric around it (differences of pairs)."""
    values = np.asarray(values, np.float64)
    if not len(values) or not values.any():
        return 1.0
    signs = rng.integers(0, 2, (PERMUTATIONS, len(values))) * 2 - 1
    return _share_as_large(np.abs(signs @ values), abs(values.sum()), float(np.abs(values).sum()))


def profile_test(values: NDArray[np.floating], rng: np.random.Generator) -> float:
    """p-value of equal columns: do responses of the same contexts depend on the column (a position, say)?

    Under the null, values of a context may change places among its columns; they are permuted within every context.
    Statistic: sum over columns of n (mean - grand mean)^2 of values centred per context (as Friedman's test, on the
    values themselves). Differences within ``ROUNDING`` are none.

    Args:
        values: [contexts, columns]; NaN where a context has no value.
        rng: draws the permutations.
    """
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values)
    largest = np.abs(values[known]).max(initial=0)
    sums = np.zeros((1 + _PROFILE_PERMUTATIONS, values.shape[1]))
    for row, columns in zip(values, known, strict=True):
        if not columns.any():
            continue
        centred = row[columns] - row[columns].mean()
        centred[np.abs(centred) <= ROUNDING * largest] = 0
        sums[0, columns] += centred
        sums[1:, columns] += rng.permuted(np.tile(centred, (_PROFILE_PERMUTATIONS, 1)), axis=1)
    if not sums.any():
        return 1.0
    statistic = (sums**2 / np.maximum(known.sum(0), 1)).sum(1)
    return _share_as_large(statistic[1:], float(statistic[0]), float(statistic[0]))


def _share_as_large(drawn: NDArray[np.float64], observed: float, scale: float) -> float:
    # Sums in another order differ in their last bits: what is as large but for those counts as as large.
    return float((1 + np.count_nonzero(drawn >= observed - 1e-12 * scale)) / (1 + len(drawn)))


def wilson(successes: int, n: int) -> Estimate | None:
    """A share with Wilson's (1927) score interval; None for n = 0."""
    if not n:
        return None
    share = successes / n
    low, high = wilson_bounds(share, n, QUANTILE)
    return Estimate(value=share, low=low, high=high, n=n)


def wilson_bounds(share: float, n: int, quantile: float) -> tuple[float, float]:
    """Wilson's (1927) score interval of a share of n, with ``quantile`` standard errors to each side.

    A variance that is d times the binomial one, or a t quantile in the place of the normal one, widens it by a larger
    quantile: the interval depends on quantile**2 / n alone.
    """
    weight = quantile**2 / n
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    # At the ends rounding may put the bound on the wrong side of the share.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def mean_of_shares(first: Estimate, second: Estimate) -> Estimate:
    """(first + second) / 2 of independent shares, with the MOVER interval (Zou and Donner 2008)."""
    assert first.low is not None
    assert first.high is not None
    assert second.low is not None
    assert second.high is not None
    value = (first.value + second.value) / 2
    below = math.hypot(first.value - first.low, second.value - second.low) / 2
    above = math.hypot(first.high - first.value, second.high - second.value) / 2
    return Estimate(value=value, low=value - below, high=value + above, n=first.n + second.n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that control the family-wise error rate (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = largest
    return adjusted
