"""Scores of (component, token) pairs, and the order of lists.

Lists are ordered by the exact ratio of counts that a score grows with, not by the score: rounding makes no ties and
breaks none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.store.records import TOKEN_METRICS, Side, TokenLists, TokenMetric, TokenScore

MIN_COUNT = 5
"""Default minimum M_cv for token lists by precision, lift and PMI (all in the same order)."""


def chosen(value: str, options: tuple[str, ...], what: str) -> None:
    """Refuse a name that is not among the options."""
    if value not in options:
        raise SpdToolsError(f"{value!r} is no {what}; choose one of {', '.join(options)}.")


def at_least(value: int, least: int, what: str) -> None:
    """Refuse a number that is too small."""
    if value < least:
        raise SpdToolsError(f"{what} is {value}; give a number of at least {least}.")


def first_by(limit: int, *orders: NDArray[Any]) -> NDArray[np.int64]:
    """Indices of the ``limit`` smallest entries by the first order, ties by the following ones, then by index."""
    if not limit:
        return np.empty(0, np.int64)
    if limit < len(orders[0]):
        pool = np.flatnonzero(orders[0] <= _bound(limit, orders[0]))
    else:
        pool = np.arange(len(orders[0]))
    return pool[np.lexsort([order[pool] for order in reversed(orders)])][:limit]


def largest(limit: int, counts: NDArray[Any]) -> NDArray[np.int64]:
    """Indices of the ``limit`` largest counts above zero, descending, ties by index."""
    if not limit:
        return np.empty(0, np.int64)
    least = max(1, _lower_bound(limit, counts)) if limit < len(counts) else 1
    pool = np.flatnonzero(counts > least)
    if len(pool) < limit:
        pool = np.concatenate([pool, np.flatnonzero(counts == least)[: limit - len(pool)]])
    return pool[np.argsort(-counts[pool], kind="stable")][:limit]


def _lower_bound(limit: int, counts: NDArray[Any]) -> Any:
    """A value, seldom far below the largest such, that at least ``limit`` (>= 1, below n) counts reach."""
    n_columns = 1024
    n_rows = len(counts) // n_columns
    if n_rows > 1 and limit <= n_columns:
        counts = counts[: n_rows * n_columns].reshape(n_rows, n_columns).max(0)
    return np.partition(counts, len(counts) - limit)[len(counts) - limit]


def _bound(limit: int, order: NDArray[Any]) -> Any:
    """A value, seldom far above the smallest such, that at least ``limit`` (>= 1, below n) entries do not exceed."""
    n_columns = 1024
    n_rows = len(order) // n_columns
    if n_rows > 1 and limit <= n_columns:
        # Each column's smallest entry stands for one entry; numpy is slow to partition long arrays with many ties.
        order = order[: n_rows * n_columns].reshape(n_rows, n_columns).min(0)
    return np.partition(order, limit - 1)[limit - 1]


def pmi(
    count: NDArray[Any], total: NDArray[Any], n_firings: int | NDArray[np.int64], n_tokens: int
) -> NDArray[np.float64]:
    """ln(count T / (n total)), elementwise; -inf where count is 0."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(count, np.float64) * n_tokens / (n_firings * np.asarray(total, np.float64)))


@dataclass(frozen=True, eq=False)
class TokenStats:
    """All tokens that one component met: M is the input count I, or the output mass O."""

    side: Side
    token: NDArray[np.int32]
    """[n] token ids, ascending."""
    count: NDArray[Any]
    """[n] M_cv > 0: int64 (input) or float64 (output)."""
    total: NDArray[Any]
    """[n] M_v."""
    firing_count: int
    """n_c."""
    n_tokens: int
    """T."""
    dropped_mass: float | None
    """D_c (output): probability mass at firings on tokens below p_min, part of no entry; None for input."""
    text_of: Callable[[int], str | None]
    """Text of a token id."""

    def __len__(self) -> int:
        return len(self.token)

    @property
    def recall(self) -> NDArray[np.float64]:
        """[n] M_cv / n_c."""
        return self.count / self.firing_count

    @property
    def precision(self) -> NDArray[np.float64]:
        """[n] M_cv / M_v."""
        return self.count / self.total

    @property
    def lift(self) -> NDArray[np.float64]:
        """[n] precision / density."""
        return self.precision * self.n_tokens / self.firing_count

    @property
    def pmi(self) -> NDArray[np.float64]:
        """[n] ln(M_cv T / (n_c M_v))."""
        return pmi(self.count, self.total, self.firing_count, self.n_tokens)

    def lists(self, metric: TokenMetric, limit: int = 20, min_count: float | None = None) -> TokenLists:
        """Best and worst tokens; ties by the larger M_cv, then by token id.

        Args:
            metric: what orders the lists.
            limit: entries per list. The bottom list has fewer when tokens run short: none stands in both.
            min_count: least M_cv; default MIN_COUNT, for recall none (a rare token cannot lead there).

        Raises:
            SpdToolsError: for an unknown metric or a negative limit.
        """
        chosen(metric, TOKEN_METRICS, "token metric")
        at_least(limit, 0, "The limit of a list")
        if min_count is None:
            min_count = 0 if metric == "recall" else MIN_COUNT
        eligible = np.flatnonzero(self.count >= min_count)
        count = self.count[eligible]
        ratio = np.asarray(count, np.float64) if metric == "recall" else count / self.total[eligible]
        larger = -count
        top = first_by(limit, -ratio, larger)
        # As many more as the top list may take away.
        bottom = first_by(limit + len(top), ratio, larger)
        bottom = bottom[~np.isin(bottom, top)][:limit]
        return TokenLists(
            metric=metric,
            min_count=min_count,
            n_eligible=len(eligible),
            top=self.scores(eligible[top]),
            bottom=self.scores(eligible[bottom]),
        )

    def scores(self, entries: NDArray[np.int64]) -> list[TokenScore]:
        """All metrics of some entries."""
        return token_scores(
            self.token[entries],
            self.count[entries],
            self.total[entries],
            self.firing_count,
            self.n_tokens,
            self.text_of,
        )


def token_scores(
    token: NDArray[Any],
    count: NDArray[Any],
    total: NDArray[Any],
    firing_count: int | NDArray[np.int64],
    n_tokens: int,
    text_of: Callable[[int], str | None],
) -> list[TokenScore]:
    """All metrics of (component, token) pairs with M_cv > 0; firing_count: n_c of one component, or one per pair."""
    precision = count / total
    columns = {
        "token_id": token,
        "count": count,
        "total": total,
        "recall": count / firing_count,
        "precision": precision,
        "lift": precision * n_tokens / firing_count,
        "pmi": pmi(count, total, firing_count, n_tokens),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [TokenScore(text=text_of(row[0]), **dict(zip(columns, row, strict=True))) for row in rows]
