"""Token enrichment: which tokens a component goes with, split into how often it fires on them and how strongly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from spd_tools.analysis.overview import DENSE
from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import Estimate, Request, Result
from spd_tools.experiments.statistics import QUANTILE, holm, wilson
from spd_tools.experiments.subject import Subject
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import Record
from spd_tools.wording import plural


class EnrichmentRequest(Request):
    """Compare a component on each token with itself elsewhere."""

    experiment: Literal["enrichment"] = "enrichment"
    limit: int = Field(default=20, ge=1, le=1000, description="tokens per list")


class TokenEnrichment(Record):
    """A component on one token t, and on all other tokens."""

    token_id: int
    text: str | None
    count: int
    """n_ct: firings on t."""
    total: int
    """n_t: occurrences of t."""
    rate: Estimate
    """n_ct / n_t, with Wilson's interval."""
    rate_elsewhere: float | None
    """(n_c - n_ct) / (T - n_t); None where there is no other token."""
    size: Estimate | None
    """Mean |ranking activation| at logged firings on t, with a normal interval; None without any."""
    size_elsewhere: float | None
    """The same at logged firings on other tokens."""
    mean: float | None
    """E[a given t] = rate x size; a is |ranking activation| where it fires, else 0."""
    mean_elsewhere: float | None
    p_value: float
    """Of a rate on t like that of all tokens: exact binomial test, corrected (Holm) for all tokens of the harvest."""


class EnrichmentResult(Result):
    """Tokens that a component goes with.

    ``effect`` is the firing rate on the leading token and ``control`` that on all others; its p-value is corrected for
    the choice of the token, its interval is not. Occurrences are taken for independent; those of one row may not be.
    """

    request: EnrichmentRequest
    n_tested: int
    """Tokens that occur in the harvest."""
    n_enriched: int
    """Tokens with a higher rate than all together at a corrected p <= 0.05."""
    strongest: list[TokenEnrichment]
    """By the lower end of rate's interval x size: what a token brings at the least, so that single sightings do not
    lead. A token without a logged firing takes the component's mean size for this, and for nothing else."""
    silent: list[TokenEnrichment] | None
    """By the upper end of rate's interval, those with a rate below that elsewhere; None for components of a density
    below one half, which are silent on most tokens."""

    @property
    def fired_on(self) -> list[TokenEnrichment]:
        """Of the strongest those on which it fired: the order of the others means nothing."""
        return [token for token in self.strongest if token.count]


def enrichment(subject: Subject, request: EnrichmentRequest) -> EnrichmentResult:
    """Firing rate, size and mean activation per token, from the exact counts and the logged firings.

    Raises:
        SpdToolsError: for an unknown component, or one that never fired.
    """
    harvest, key = subject.harvest, request.key
    record = harvest.component(key)
    if not record.firing_count:
        raise SpdToolsError(f"{key} never fired in this harvest, so no token goes with it; name another component.")
    tokens = _Tokens.of(harvest, key, record.firing_count)
    strongest = np.argsort(-tokens.at_least, kind="stable")[: request.limit]
    below = np.flatnonzero(tokens.count * harvest.n_tokens < record.firing_count * tokens.total)
    silent = below[np.argsort(tokens.rate_high[below], kind="stable")][: request.limit]
    first = tokens.record(harvest, int(strongest[0]))
    n_others = harvest.n_tokens - first.total
    control = wilson(record.firing_count - first.count, n_others)
    n_enriched = int(np.count_nonzero((tokens.p_value <= 0.05) & (tokens.count / tokens.total > record.density)))
    return EnrichmentResult(
        **subject.identity(request),
        kind="observational",
        population=f"{harvest.n_tokens:,} harvested tokens, {len(tokens.token):,} distinct",
        n=first.total,
        effect=first.rate,
        control=control,
        p_value=first.p_value,
        summary=_summary(harvest, key, first, n_enriched),
        request=request,
        n_tested=len(tokens.token),
        n_enriched=n_enriched,
        strongest=[tokens.record(harvest, int(place)) for place in strongest],
        silent=[tokens.record(harvest, int(place)) for place in silent] if record.density >= DENSE else None,
    )


@dataclass(frozen=True, eq=False)
class _Tokens:
    """All tokens that occur, as arrays [n]."""

    token: NDArray[np.int64]
    count: NDArray[np.int64]
    total: NDArray[np.int64]
    n_sizes: NDArray[np.int64]
    """Logged firings on each."""
    size_sum: NDArray[np.float64]
    size_square: NDArray[np.float64]
    """Sum of squared distances from the token's mean size."""
    p_value: NDArray[np.float64]
    firing_count: int
    n_tokens: int

    @classmethod
    def of(cls, harvest: Harvest, key: ComponentKey, firing_count: int) -> _Tokens:
        totals = np.asarray(harvest.vocabulary("input"))
        fired, counts = harvest.token_counts(key)
        count = np.zeros(len(totals), np.int64)
        count[fired] = counts
        log = harvest.activations(key)
        at = harvest.tokens().reshape(-1)[log.token].astype(np.int64)
        sizes = np.abs(log.values[harvest.ranking_kind]).astype(np.float64)
        n_sizes = np.bincount(at, minlength=len(totals))
        sums = np.bincount(at, sizes, minlength=len(totals))
        distances = sizes - (sums / np.maximum(n_sizes, 1))[at]
        squares = np.bincount(at, distances**2, minlength=len(totals))
        occurs = np.flatnonzero(totals > 0)
        p_values = holm(binomial_test(count[occurs], totals[occurs], firing_count / harvest.n_tokens).tolist())
        return cls(
            occurs,
            count[occurs],
            totals[occurs],
            n_sizes[occurs],
            sums[occurs].astype(np.float64),
            squares[occurs].astype(np.float64),
            np.array(p_values),
            firing_count,
            harvest.n_tokens,
        )

    @property
    def rate_high(self) -> NDArray[np.float64]:
        """[n] upper end of the firing rate's interval."""
        return np.array([_ends(c, n)[1] for c, n in zip(self.count.tolist(), self.total.tolist(), strict=True)])

    @property
    def at_least(self) -> NDArray[np.float64]:
        """[n] lower end of the firing rate's interval x size."""
        low = np.array([_ends(c, n)[0] for c, n in zip(self.count.tolist(), self.total.tolist(), strict=True)])
        # Without a logged firing no size is known: then the rates alone rank.
        overall = self.size_sum.sum() / self.n_sizes.sum() if self.n_sizes.any() else 1.0
        return low * np.where(self.n_sizes > 0, self.size_sum / np.maximum(self.n_sizes, 1), overall)

    def record(self, harvest: Harvest, at: int) -> TokenEnrichment:
        token, count, total = int(self.token[at]), int(self.count[at]), int(self.total[at])
        rate = wilson(count, total)
        assert rate is not None
        n_others = self.n_tokens - total
        rate_elsewhere = (self.firing_count - count) / n_others if n_others else None
        size = self._size(at)
        n_sizes = int(self.n_sizes.sum() - self.n_sizes[at])
        size_elsewhere = max(0.0, float(self.size_sum.sum() - self.size_sum[at])) / n_sizes if n_sizes else None
        return TokenEnrichment(
            token_id=token,
            text=harvest.token_text(token),
            count=count,
            total=total,
            rate=rate,
            rate_elsewhere=rate_elsewhere,
            size=size,
            size_elsewhere=size_elsewhere,
            mean=_mean(rate.value, None if size is None else size.value),
            mean_elsewhere=_mean(rate_elsewhere, size_elsewhere),
            p_value=float(self.p_value[at]),
        )

    def _size(self, at: int) -> Estimate | None:
        n = int(self.n_sizes[at])
        if not n:
            return None
        mean = float(self.size_sum[at]) / n
        if n == 1:
            return Estimate(value=mean, low=None, high=None, n=1)
        half = QUANTILE * math.sqrt(float(self.size_square[at]) / (n - 1) / n)
        return Estimate(value=mean, low=max(0.0, mean - half), high=mean + half, n=n)


def binomial_test(count: NDArray[np.int64], total: NDArray[np.int64], rate: float) -> NDArray[np.float64]:
    """Two-sided exact p-values (twice the smaller tail) of ``count`` successes in ``total`` tries at a rate.

    Firings on a token, given those of the whole harvest, vary less than this (hypergeometric), never more.
    """
    from scipy.special import bdtr, bdtrc

    at_most = bdtr(count.astype(np.float64), total, rate)
    at_least = np.where(count > 0, bdtrc(np.maximum(count - 1, 0).astype(np.float64), total, rate), 1.0)
    return np.minimum(1.0, 2 * np.minimum(at_most, at_least))


def _ends(count: int, total: int) -> tuple[float, float]:
    estimate = wilson(count, total)
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.high


def _mean(rate: float | None, size: float | None) -> float | None:
    """rate x size; nothing is 0 where the rate is, whatever the size."""
    if rate == 0:
        return 0.0
    return None if rate is None or size is None else rate * size


def _summary(harvest: Harvest, key: ComponentKey, first: TokenEnrichment, n_enriched: int) -> str:
    elsewhere = "" if first.rate_elsewhere is None else f", elsewhere on {first.rate_elsewhere:.2%}"
    return (
        f"{key} fires on {first.rate.value:.1%} of {plural(first.total, 'occurrence')} of "
        f"{harvest.token_texts.shown(first.token_id)!r}{elsewhere}; {plural(n_enriched, 'token')} with a rate "
        "above its density. "
        "That it goes with a token does not show that the token makes it fire."
    )
