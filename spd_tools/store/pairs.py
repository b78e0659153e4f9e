"""How often a component fires together with every other one: scores and lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_tools.keys import KeySpace
from spd_tools.store.records import CorrelatedComponent, PairMetric
from spd_tools.store.scores import first_by, pmi

MIN_EXPECTED = 5
"""Lists by PMI and of the weakest pairs need n_i n_j / T of at least this."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """One component i with all components j."""

    i: int
    """Flat index."""
    counts: NDArray[np.int64]
    """[C] n_ij; 0 at i itself."""
    firing_counts: NDArray[np.int64]
    """[C] n_j"""
    n_tokens: int
    """T"""

    @classmethod
    def of(
        cls, i: int, partner: NDArray[Any], count: NDArray[Any], firing_counts: NDArray[np.int64], n_tokens: int
    ) -> Pairs:
        """From the partners that it fired with."""
        counts = np.zeros(len(firing_counts), np.int64)
        counts[partner] = count
        return cls(i, counts, firing_counts, n_tokens)

    @property
    def n_i(self) -> int:
        """Firings of the component itself."""
        return int(self.firing_counts[self.i])

    def ranked(self, metric: PairMetric, limit: int, weakest: bool) -> NDArray[np.int64]:
        """Flat indices by descending (weakest: ascending) score; ties by the larger expectation, then by index."""
        others = self._candidates(metric, weakest)
        ratio = self._ratio(metric, others)
        return others[first_by(limit, ratio if weakest else -ratio, -self.firing_counts[others])]

    def _candidates(self, metric: PairMetric, weakest: bool) -> NDArray[np.int64]:
        if self.n_i == 0:
            return np.empty(0, np.int64)
        keep = self.firing_counts > 0 if weakest else self.counts > 0
        if weakest or metric == "pmi":
            # n_i n_j >= 5 T, exactly and without a product that could overflow.
            keep &= self.firing_counts >= -(-MIN_EXPECTED * self.n_tokens // self.n_i)
        keep[self.i] = False
        return np.flatnonzero(keep)

    def _ratio(self, metric: PairMetric, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the metric grows with at fixed i: a correctly rounded quotient of integers."""
        count, n_j = self.counts[others], self.firing_counts[others]
        if metric == "precision":
            return count / self.n_i
        if metric == "jaccard":
            return count / (self.n_i + n_j - count)
        return count / n_j  # recall; PMI grows with it

    def records(self, others: NDArray[np.int64], metric: PairMetric, keys: KeySpace) -> list[CorrelatedComponent]:
        """All scores of some pairs, with their counts."""
        count, n_j = self.counts[others], self.firing_counts[others]
        scores = {
            "precision": self._ratio("precision", others),
            "recall": self._ratio("recall", others),
            "jaccard": self._ratio("jaccard", others),
            "pmi": pmi(count, n_j, self.n_i, self.n_tokens),
        }
        columns = {
            **scores,
            "score": scores[metric],
            "count": count,
            "expected": n_j * (self.n_i / self.n_tokens),
            "firing_count": n_j,
            "density": n_j / self.n_tokens,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [
            CorrelatedComponent(key=keys.key(j), **dict(zip(columns, row, strict=True)))
            for j, row in zip(others.tolist(), rows, strict=True)
        ]
