"""Two components' firings at the same positions, token by token: association within tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.experiments.records import Estimate
from spd_tools.experiments.statistics import QUANTILE, bootstrap_mean, sign_flip_test, wilson
from spd_tools.experiments.subject import Subject
from spd_tools.keys import ComponentKey
from spd_tools.store.records import Record

MAX_BLOCKS = 512
"""Rows are put together into at most this many blocks: as independent as rows, and enough for intervals and tests."""


class TokenStrata(Record):
    """Firings of i and j on each token, one 2 x 2 table per token, put together."""

    n_tokens: int
    """Distinct tokens in the logged rows."""
    n_informative: int
    """Those on which each of the two sometimes fires and sometimes does not; all others say nothing."""
    n_positions: int
    """Logged positions of informative tokens."""
    n_firings: int
    """Firings of i among them."""
    n_common: int
    """Firings of both among them."""
    expected: float
    """Common firings if i and j were independent given the token: sum of n_it n_jt / N_t."""
    odds_ratio: Estimate | None
    """Mantel and Haenszel (1959); interval of Robins, Breslow and Greenland (1986), widened by the square root of the
    design effect. None where it would be 0 or infinite."""
    design_effect: float
    """How many times more the common firings vary between rows than for independent positions; at least 1."""
    p_positions: float
    """Cochran-Mantel-Haenszel test (continuity corrected), which takes positions for independent."""
    p_rows: float
    """Sign-flip test on sums of residual products over blocks of rows, which takes rows for independent."""


@dataclass(frozen=True, eq=False)
class LoggedFirings:
    """Two components at all logged positions that count."""

    token: NDArray[np.int64]
    """[n] token ids."""
    row: NDArray[np.int64]
    """[n] 0..n_rows - 1"""
    i: NDArray[np.bool_]
    """[n] whether i fires."""
    j: NDArray[np.bool_]
    """[n]"""
    n_rows: int

    @classmethod
    def of(cls, subject: Subject, i: ComponentKey, j: ComponentKey) -> LoggedFirings:
        """Read them off a harvest's log."""
        harvest = subject.harvest
        rows = np.asarray(harvest.logged_rows)
        row, position = np.nonzero(harvest.counted(rows))
        flat = rows[row] * harvest.seq_len + position
        fires = [np.isin(flat, harvest.activations(key).token, assume_unique=True) for key in (i, j)]
        return cls(harvest.tokens()[rows[row], position].astype(np.int64), row, fires[0], fires[1], len(rows))

    def rates(self, fires: NDArray[np.bool_]) -> NDArray[np.float64]:
        """[n] how often a component fires on the token at each position."""
        total = np.bincount(self.token)
        count = np.bincount(self.token[fires], minlength=len(total))
        return (count / np.maximum(total, 1))[self.token]

    def shares(self, first: np.random.Generator, second: np.random.Generator) -> tuple[Estimate, Estimate]:
        """Share of i's firings at which j fires, and the mean over them of j's rate on their tokens."""
        cluster = blocks(self.row[self.i], self.n_rows)
        observed = _clustered_mean(self.j[self.i].astype(np.float64), cluster, first)
        expected = _clustered_mean(self.rates(self.j)[self.i], cluster, second)
        return observed, expected

    def given_token(self, rng: np.random.Generator) -> TokenStrata | None:
        """Association within tokens; None where no token is informative."""
        total, n_i, n_j, n_ij = (
            np.bincount(self.token[at], minlength=int(self.token.max()) + 1).astype(np.float64)
            for at in (slice(None), self.i, self.j, self.i & self.j)
        )
        informative = (n_i > 0) & (n_i < total) & (n_j > 0) & (n_j < total)
        if not informative.any():
            return None
        at = informative[self.token]
        residuals = (self.i - self.rates(self.i)) * (self.j - self.rates(self.j))
        rows = np.bincount(self.row[at], residuals[at], minlength=self.n_rows).astype(np.float64)
        sums = np.bincount(blocks(np.arange(self.n_rows), self.n_rows), rows).astype(np.float64)
        tables = Tables(*(counts[informative] for counts in (n_ij, n_i, n_j, total)))
        design_effect = max(1.0, float(((rows - rows.mean()) ** 2).sum() / tables.variance))
        return TokenStrata(
            n_tokens=int(np.count_nonzero(total)),
            n_informative=int(informative.sum()),
            n_positions=int(tables.total.sum()),
            n_firings=int(tables.n_i.sum()),
            n_common=int(tables.both.sum()),
            expected=float(tables.expected.sum()),
            odds_ratio=tables.odds_ratio(design_effect),
            design_effect=design_effect,
            p_positions=tables.p_value,
            p_rows=sign_flip_test(sums[sums != 0], rng),
        )


@dataclass(frozen=True, eq=False)
class Tables:
    """2 x 2 tables, one per stratum, none of them with an empty margin: all arrays are [strata]."""

    both: NDArray[np.float64]
    n_i: NDArray[np.float64]
    n_j: NDArray[np.float64]
    total: NDArray[np.float64]

    @property
    def expected(self) -> NDArray[np.float64]:
        """[strata] of ``both``, if independent."""
        return self.n_i * self.n_j / self.total

    @property
    def variance(self) -> float:
        """Of the sum of ``both`` given all margins (hypergeometric)."""
        spread = self.n_i * self.n_j * (self.total - self.n_i) * (self.total - self.n_j)
        return float((spread / (self.total**2 * (self.total - 1))).sum())

    @property
    def p_value(self) -> float:
        """Cochran-Mantel-Haenszel test with continuity correction (Mantel and Haenszel 1959)."""
        distance = max(0.0, abs(float((self.both - self.expected).sum())) - 0.5)
        return math.erfc(distance / math.sqrt(2 * self.variance))

    def odds_ratio(self, design_effect: float) -> Estimate | None:
        """Mantel-Haenszel odds ratio; None where it is 0 or infinite."""
        only_i, only_j = self.n_i - self.both, self.n_j - self.both
        neither = self.total - self.n_i - only_j
        with_, without = self.both * neither / self.total, only_i * only_j / self.total
        up, down = float(with_.sum()), float(without.sum())
        if not up or not down:
            return None
        agree, differ = (self.both + neither) / self.total, (only_i + only_j) / self.total
        variance = (
            float((agree * with_).sum()) / (2 * up * up)
            + float((agree * without + differ * with_).sum()) / (2 * up * down)
            + float((differ * without).sum()) / (2 * down * down)
        )
        half = QUANTILE * math.sqrt(variance * design_effect)
        log_ratio = math.log(up / down)
        return Estimate(
            value=up / down,
            low=math.exp(log_ratio - half),
            high=math.exp(min(log_ratio + half, 700.0)),  # still a float
            n=int(self.total.sum()),
        )


def blocks(row: NDArray[np.int64], n_rows: int) -> NDArray[np.int64]:
    """[n] block of each position's row."""
    return row * min(MAX_BLOCKS, n_rows) // n_rows


def _clustered_mean(values: NDArray[np.float64], cluster: NDArray[np.int64], rng: np.random.Generator) -> Estimate:
    """Mean of values in 0..1 with a bootstrap interval over clusters (of the linearised ratio).

    Clusters that all agree would give an interval of no width, so it is widened towards 0 and 1 by what Wilson's
    interval leaves open when n of n tries succeed.
    """
    n, mean = len(values), float(values.mean())
    _, place = np.unique(cluster, return_inverse=True)
    sums, sizes = np.bincount(place, values), np.bincount(place)
    spread = bootstrap_mean((sums - mean * sizes) / sizes.mean(), rng)
    by_position = wilson(n, n)
    assert spread is not None
    assert by_position is not None
    assert by_position.low is not None
    if spread.low is None or spread.high is None:
        return Estimate(value=mean, low=None, high=None, n=n)
    least = 1 - by_position.low
    low, high = min(mean + spread.low, mean - least * mean), max(mean + spread.high, mean + least * (1 - mean))
    return Estimate(value=mean, low=max(0.0, low), high=min(1.0, high), n=n)
