"""What is known about a component, to make a label of.

Texts come from the labelling half of the rows only (``evaluate.splits``), so that labels can be scored on the other
half. Counts of tokens and of firings together cover all rows; they show no text of a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spd_tools.analysis.overview import DENSE
from spd_tools.analysis.regions import TokenCount, most_frequent
from spd_tools.evaluate.splits import Split
from spd_tools.evaluate.windows import Window
from spd_tools.interpret.places import Place, place_of
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import ComponentRecord, CorrelatedComponent, PairMetric, Side, TokenScore

SOURCES = "texts: labelling split; token and co-firing statistics: all rows"
"""Where evidence comes from, for the notes of labels made of it."""
N_UNIFORM = 10
N_TOP = 8
N_TOKENS = 10
"""Entries per list of tokens."""
N_PARTNERS = 4
"""Co-firing components, by PMI, and as many by Jaccard index."""
_PARTNER_TOKENS = 3
_MAX_PER_TOKEN = 2
"""Of the strongest examples; a component of the first layer otherwise shows one token over and over."""
_TOP_POOL = 5 * N_TOP

LabelOf = Callable[[ComponentKey], str | None]
"""A component's label, if it has one."""


@dataclass(frozen=True)
class Tokens:
    """Tokens that a component fires on, or that are predicted where it fires; counted over all rows."""

    frequent: list[TokenScore]
    """By the share of its firings (recall)."""
    typical: list[TokenScore]
    """The best by PMI that are not among the frequent ones."""


@dataclass(frozen=True)
class Silent:
    """A token and how often a dense component does not fire on it; counted over all rows."""

    token: TokenCount
    total: int
    """Occurrences, with and without a firing."""


@dataclass(frozen=True)
class Partner:
    """A component that fires together with the one asked about; counted over all rows."""

    pair: CorrelatedComponent
    tokens: list[TokenCount]
    """Its own most frequent tokens."""
    label: str | None


@dataclass(frozen=True)
class Evidence:
    """About one component."""

    component: ComponentRecord
    place: Place
    uniform: list[Window]
    """Random firings in labelling rows."""
    top: list[Window]
    """The strongest firings in labelling rows, other texts than those of ``uniform``."""
    inputs: Tokens
    outputs: Tokens
    silent: list[Silent]
    """Most frequent first; none unless the component is dense."""
    partners: list[Partner]

    @property
    def has_examples(self) -> bool:
        """Whether there is any text to make a label of."""
        return bool(self.uniform or self.top)

    @property
    def is_dense(self) -> bool:
        """Whether where it does not fire says more than where it does."""
        return self.component.density >= DENSE


def gather(split: Split, key: str | ComponentKey, label_of: LabelOf = lambda key: None) -> Evidence:
    """Read a component's evidence from the harvest; reads only what belongs to it and to its partners.

    Raises:
        SpdToolsError: for an unknown component.
    """
    harvest = split.harvest
    component = harvest.component(key)
    uniform = split.labelling_examples(component.key, N_UNIFORM, "uniform")
    return Evidence(
        component=component,
        place=place_of(component.key.layer, harvest.keys.layers),
        uniform=uniform,
        top=_top(split, component.key, uniform),
        inputs=_tokens(harvest, component.key, "input"),
        outputs=_tokens(harvest, component.key, "output"),
        silent=_silent(harvest, component.key) if component.density >= DENSE else [],
        partners=_partners(harvest, component.key, label_of),
    )


def _top(split: Split, key: ComponentKey, others: list[Window]) -> list[Window]:
    known = {tuple(window.token_ids) for window in others}
    seen: Counter[int] = Counter()
    found: list[Window] = []
    for window in split.labelling_examples(key, _TOP_POOL, "top"):
        token = window.token_ids[window.marked]
        if tuple(window.token_ids) not in known and seen[token] < _MAX_PER_TOKEN:
            seen[token] += 1
            found.append(window)
    return found[:N_TOP]


def _tokens(harvest: Harvest, key: ComponentKey, side: Side) -> Tokens:
    stats = harvest.token_stats(key, side)
    frequent = stats.lists("recall", N_TOKENS).top
    shown = {score.token_id for score in frequent}
    typical = [score for score in stats.lists("pmi", N_TOKENS).top if score.token_id not in shown]
    return Tokens(frequent=frequent, typical=typical)


def _silent(harvest: Harvest, key: ComponentKey) -> list[Silent]:
    tokens, counts = harvest.token_counts(key)
    total = harvest.vocabulary("input")
    silent = total.copy()
    silent[tokens] -= counts
    found = most_frequent(harvest, np.arange(len(silent)), silent, N_TOKENS)
    return [Silent(token, int(total[token.token_id])) for token in found]


def _partners(harvest: Harvest, key: ComponentKey, label_of: LabelOf) -> list[Partner]:
    pairs = harvest.pairs(key)
    metrics: tuple[PairMetric, ...] = ("pmi", "jaccard")
    listed = {
        pair.key: pair
        for metric in metrics
        for pair in pairs.records(pairs.ranked(metric, N_PARTNERS, weakest=False), metric, harvest.keys)
    }
    return [
        Partner(pair, most_frequent(harvest, *harvest.token_counts(pair.key), _PARTNER_TOKENS), label_of(pair.key))
        for pair in listed.values()
    ]
