"""Regions of a component's activation range, from the logged firings.

The core says what a component means; the extreme alone misleads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import Record
from spd_tools.store.scores import at_least, largest

RegionName = Literal["floor", "low", "below core", "core", "high", "extreme"]
REGIONS: tuple[tuple[RegionName, float], ...] = (
    ("floor", 0.01),
    ("low", 0.10),
    ("below core", 0.25),
    ("core", 0.75),
    ("high", 0.90),
    ("extreme", float("inf")),
)
"""(name, upper end as a share of the effective maximum, inclusive)."""


_BLOCK = 1 << 16


class TokenCount(Record):
    """How many firings of some kind are on a token."""

    token_id: int
    text: str | None
    count: int


class RegionSide(Record):
    """The firings of a region whose ranking activation has one sign."""

    firing_count: int
    tokens: list[TokenCount]
    """Their most frequent tokens."""


class Region(Record):
    """Logged firings whose |ranking activation| lies in (low, high]."""

    name: RegionName
    low: float
    high: float | None
    """None: no upper end."""
    firing_count: int
    share: float
    """Of the component's logged firings."""
    n_distinct_tokens: int
    tokens: list[TokenCount]
    """The most frequent firing tokens, of both signs."""
    positive: RegionSide
    """Ranking activation of zero or above."""
    negative: RegionSide
    """Ranking activation below zero: another half of the component's direction, often with a meaning of its own."""


class Regions(Record):
    """All regions, from the floor up."""

    kind: str
    """The ranking activation."""
    effective_max: float
    """99.5th percentile of its absolute value at the logged firings."""
    logged_firings: int
    """Firings that this was computed from."""
    regions: list[Region]


def region_edges(effective_max: float) -> NDArray[np.float32]:
    """[5] upper ends of all regions but the extreme."""
    return np.array([effective_max * share for _, share in REGIONS[:-1]], np.float32)


def region_numbers(values: NDArray[np.float32], effective_max: float) -> NDArray[np.int8]:
    """Index into REGIONS of each ranking activation."""
    magnitude = np.abs(values)
    numbers = np.zeros(len(values), np.int8)
    for edge in region_edges(effective_max):
        np.add(numbers, (magnitude > edge).view(np.int8), out=numbers)
    return numbers


def regions(harvest: Harvest, key: str | ComponentKey, n_tokens: int = 10) -> Regions | None:
    """Where in its range a component fires, and on which tokens; None when the log has no firing of it.

    Raises:
        SpdToolsError: for an unknown component or a negative number of tokens.
    """
    at_least(n_tokens, 0, "The number of tokens per region")
    record = harvest.component(key)
    if record.effective_max is None:
        return None
    log = harvest.activations(key)
    values = log.values[harvest.ranking_kind]
    token_ids, counts = _token_counts(harvest, values, log.token, record.effective_max)
    edges = [0.0, *region_edges(record.effective_max).tolist(), None]
    return Regions(
        kind=harvest.ranking_kind,
        effective_max=record.effective_max,
        logged_firings=len(values),
        regions=[
            _region(
                harvest,
                name,
                (edges[number] or 0.0, edges[number + 1]),
                token_ids,
                counts[:, number],
                len(values),
                n_tokens,
            )
            for number, (name, _) in enumerate(REGIONS)
        ],
    )


def blocks(n: int) -> Iterator[slice]:
    """Parts of a log of n firings: temporary arrays of a part stay in the cache, those of it all cost page faults."""
    return (slice(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK))


def _token_counts(
    harvest: Harvest, values: NDArray[np.float32], token: NDArray[np.int64], effective_max: float
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Token ids, ascending, and their firings [signs (positive, negative), regions, token ids]."""
    tokens = harvest.tokens().reshape(-1)[token]
    token_ids, places = _distinct(tokens, harvest.manifest.decomposition.vocab_size)
    # 32 bits hold them (a harvest has at most 2^30 tokens) and half of the memory stays in the cache.
    counts = np.zeros(2 * len(REGIONS) * len(token_ids), np.int32)
    for part in blocks(len(values)):
        numbers = region_numbers(values[part], effective_max)
        numbers += len(REGIONS) * (values[part] < 0).view(np.int8)
        cells = np.multiply(numbers, len(token_ids), dtype=np.int64)
        cells += places[part]
        np.add.at(counts, cells, np.int32(1))
    return token_ids, counts.reshape(2, len(REGIONS), len(token_ids))


def _distinct(tokens: NDArray[Any], vocab_size: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Token ids, ascending, and the place of each token among them: all ids where more firings than ids are."""
    if len(tokens) >= vocab_size:
        return np.arange(vocab_size), tokens
    seen = np.zeros(vocab_size, np.bool_)
    seen[tokens] = True
    token_ids = np.flatnonzero(seen)
    place = np.zeros(vocab_size, np.int32)
    place[token_ids] = np.arange(len(token_ids))
    return token_ids, place[tokens]


def _region(
    harvest: Harvest,
    name: RegionName,
    ends: tuple[float, float | None],
    token_ids: NDArray[np.int64],
    counts: NDArray[np.int32],
    logged_firings: int,
    n_tokens: int,
) -> Region:
    """From its counts [signs, token ids]."""
    firings = counts.sum(1).tolist()
    positive, negative = (
        RegionSide(
            firing_count=firing_count,
            tokens=most_frequent(harvest, token_ids, of_sign, n_tokens) if firing_count else [],
        )
        for firing_count, of_sign in zip(firings, counts, strict=True)
    )
    both = counts[0] + counts[1] if all(firings) else counts[0 if firings[0] else 1]
    return Region(
        name=name,
        low=ends[0],
        high=ends[1],
        firing_count=sum(firings),
        share=sum(firings) / logged_firings,
        n_distinct_tokens=int(np.count_nonzero(both)),
        tokens=most_frequent(harvest, token_ids, both, n_tokens) if all(firings) else positive.tokens + negative.tokens,
        positive=positive,
        negative=negative,
    )


def most_frequent(
    harvest: Harvest, token_ids: NDArray[Any], counts: NDArray[np.integer], limit: int
) -> list[TokenCount]:
    """Tokens by descending count, ties by id; ``token_ids`` ascending, ``counts`` along them."""
    leading = largest(limit, counts)
    pairs = zip(token_ids[leading].tolist(), counts[leading].tolist(), strict=True)
    return [TokenCount(token_id=token_id, text=harvest.token_text(token_id), count=count) for token_id, count in pairs]
