"""Regions of a component's activation range, from the logged firings.

The core says what a component means; the extreme alone misleads.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import Record
from spd_tools.store.scores import at_least, first_by

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
    numbers = region_numbers(values, record.effective_max)
    counts = _token_counts(harvest, numbers, values < 0, harvest.tokens().reshape(-1)[log.token])
    edges = [0.0, *region_edges(record.effective_max).tolist(), None]
    return Regions(
        kind=harvest.ranking_kind,
        effective_max=record.effective_max,
        logged_firings=len(values),
        regions=[
            _region(harvest, name, (edges[number] or 0.0, edges[number + 1]), counts[:, number], len(values), n_tokens)
            for number, (name, _) in enumerate(REGIONS)
        ],
    )


def _token_counts(
    harvest: Harvest, numbers: NDArray[np.int8], negative: NDArray[np.bool_], tokens: NDArray[Any]
) -> NDArray[np.int64]:
    """[signs, regions, V] firings; one sign when none is negative, else positive and negative."""
    vocab_size = harvest.manifest.decomposition.vocab_size
    signs = 1 + int(negative.any())
    if signs == 2:
        numbers = numbers + len(REGIONS) * negative.view(np.int8)
    cells = np.multiply(numbers, vocab_size, dtype=np.int64)
    cells += tokens
    counts = np.bincount(cells, minlength=signs * len(REGIONS) * vocab_size)
    return counts.reshape(signs, len(REGIONS), vocab_size)


def _region(
    harvest: Harvest,
    name: RegionName,
    ends: tuple[float, float | None],
    counts: NDArray[np.int64],
    logged_firings: int,
    n_tokens: int,
) -> Region:
    """From its counts [signs, V]."""
    sides = [
        RegionSide(firing_count=int(of_sign.sum()), tokens=most_frequent(harvest, of_sign, n_tokens))
        for of_sign in counts
    ]
    positive, negative = sides if len(sides) == 2 else (sides[0], RegionSide(firing_count=0, tokens=[]))
    both = counts.sum(0)
    firing_count = positive.firing_count + negative.firing_count
    one_sided = not (positive.firing_count and negative.firing_count)
    return Region(
        name=name,
        low=ends[0],
        high=ends[1],
        firing_count=firing_count,
        share=firing_count / logged_firings,
        n_distinct_tokens=int(np.count_nonzero(both)),
        tokens=positive.tokens + negative.tokens if one_sided else most_frequent(harvest, both, n_tokens),
        positive=positive,
        negative=negative,
    )


def most_frequent(harvest: Harvest, counts: NDArray[np.int64], limit: int) -> list[TokenCount]:
    """Tokens by descending count, ties by id; ``counts``: one per token id."""
    seen = np.flatnonzero(counts)
    leading = seen[first_by(limit, -counts[seen])]
    return [
        TokenCount(token_id=token_id, text=harvest.token_text(token_id), count=int(counts[token_id]))
        for token_id in leading.tolist()
    ]
