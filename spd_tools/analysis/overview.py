"""Everything about one component on one page."""

from __future__ import annotations

import numpy as np

from spd_tools.analysis.positions import PositionRange, positions
from spd_tools.analysis.regions import (
    REGIONS,
    RegionName,
    Regions,
    TokenCount,
    most_frequent,
    region_numbers,
    regions,
)
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import (
    ComponentRecord,
    CorrelatedComponent,
    Example,
    HistogramBin,
    PairMetric,
    Record,
    Side,
    TokenLists,
)


class ShownExample(Example):
    """An example and where in the component's range it lies."""

    region: RegionName | None
    """None when the log has no firing of the component, so its range is not known."""


DENSE = 0.5
"""From this density on, the tokens on which a component does not fire say more than those on which it does."""
BOTH_SIGNS = 0.05
"""Share of the firings from which on a sign of the ranking activation deserves to be shown by itself."""
_MAX_PER_TOKEN = 2
_PARTNER_TOKENS = 4


class StrongestTokens(Record):
    """Which tokens the stored top examples fire on; those that are shown are at most a few per token."""

    n_examples: int
    """Stored top examples."""
    tokens: list[TokenCount]


class SilentToken(Record):
    """A token on which a component mostly does not fire."""

    token_id: int
    text: str | None
    count: int
    """Occurrences without a firing: I_v - I_cv."""
    total: int
    """I_v."""
    share: float
    """count / total."""


class TokenOverview(Record):
    """Tokens that a component fires on (input), or that the model predicts there (output)."""

    n_tokens: int
    """Distinct tokens."""
    total: float
    """Sum of M_cv over them: firings, or probability mass in units of firings."""
    dropped_mass: float | None
    """Output only: mass on tokens below p_min, which no list holds."""
    by_recall: TokenLists
    by_pmi: TokenLists


class Partner(CorrelatedComponent):
    """A component that fires together with this one, and what it fires on itself."""

    tokens: list[TokenCount]
    """Its own most frequent input tokens."""


class CoFiring(Record):
    """Components that fire together with this one."""

    n_partners: int
    """Components that fired with it at least once."""
    by_pmi: list[Partner]
    by_jaccard: list[Partner]
    weakest_by_pmi: list[CorrelatedComponent]


class Overview(Record):
    """One component: what it does, where it fires, on what, and with whom."""

    run_id: str
    harvest_id: str
    summary: str
    """One sentence; says so when the component never fired."""
    n_tokens: int
    """T: positions harvested."""
    gating_kind: str
    """A component fires where this activation is above the threshold."""
    threshold: float
    ranking_kind: str
    """Orders top examples; histogram and regions are of it."""
    p_min: float
    component: ComponentRecord
    negative_count: int
    """Firings of the whole harvest in the negative half of the histogram: the sign bit decides, so -0 is one."""
    histogram: list[HistogramBin]
    uniform_examples: list[ShownExample]
    top_examples: list[ShownExample]
    """No more than two on one firing token."""
    opposite_examples: list[ShownExample]
    """The strongest of the stored uniform examples whose sign is not that of the strongest top example, no more than
    two on one firing token; none where fewer than 5 % of all firings have that sign. Top examples alone hide it."""
    strongest_tokens: StrongestTokens
    input_tokens: TokenOverview
    silent_tokens: list[SilentToken] | None
    """Tokens that occurred most without a firing; None for components of a density below one half."""
    output_tokens: TokenOverview
    cofiring: CoFiring
    regions: Regions | None
    """None when the log has no firing of it."""
    positions: list[PositionRange] | None
    """Density along the rows; None when the log has no firing of it."""


def overview(
    harvest: Harvest,
    key: str | ComponentKey,
    *,
    n_examples: int = 10,
    context: int = 20,
    n_tokens: int = 10,
    n_components: int = 10,
) -> Overview:
    """One component's overview.

    Args:
        harvest: where to look.
        key: the component.
        n_examples: uniform ones, and as many top ones.
        context: tokens to each side of an example's firing.
        n_tokens: entries per token list.
        n_components: entries per list of co-firing components.

    Raises:
        SpdToolsError: for an unknown component or a negative number.
    """
    component = harvest.component(key)
    config = harvest.manifest.config
    histogram = harvest.histogram(key)
    negative_count = sum(bin_.count for bin_ in histogram if bin_.low < 0)
    top = harvest.examples(key, "top", n_examples, context, max_per_token=_MAX_PER_TOKEN)
    opposite = _opposite(harvest, component, negative_count, n_examples, context)
    return Overview(
        run_id=harvest.run_id,
        harvest_id=harvest.harvest_id,
        summary=_summary(component, harvest.n_tokens),
        n_tokens=harvest.n_tokens,
        gating_kind=harvest.gating_kind,
        threshold=config.threshold,
        ranking_kind=harvest.ranking_kind,
        p_min=config.p_min,
        component=component,
        negative_count=negative_count,
        histogram=histogram,
        uniform_examples=_examples(harvest, component, harvest.examples(key, "uniform", n_examples, context)),
        top_examples=_examples(harvest, component, top),
        opposite_examples=_examples(harvest, component, opposite),
        strongest_tokens=_strongest_tokens(harvest, key, n_tokens),
        input_tokens=_tokens(harvest, key, "input", n_tokens),
        silent_tokens=_silent_tokens(harvest, key, n_tokens) if component.density >= DENSE else None,
        output_tokens=_tokens(harvest, key, "output", n_tokens),
        cofiring=_cofiring(harvest, key, n_components),
        regions=regions(harvest, key, n_tokens),
        positions=positions(harvest, key) if component.logged_firings else None,
    )


def _summary(component: ComponentRecord, n_tokens: int) -> str:
    if not component.firing_count:
        return f"{component.key} never fired on the {n_tokens:,} tokens of this harvest."
    share = f"{100 * component.density:.3g} %"
    return f"{component.key} fired on {component.firing_count:,} of {n_tokens:,} tokens ({share})."


def _examples(harvest: Harvest, component: ComponentRecord, examples: list[Example]) -> list[ShownExample]:
    effective_max = component.effective_max
    if effective_max is None:
        return [ShownExample(**dict(example), region=None) for example in examples]
    at_firing = [example.activations[harvest.ranking_kind][example.firing_index] for example in examples]
    numbers = region_numbers(np.array(at_firing, np.float32), effective_max).tolist()
    return [
        ShownExample(**dict(example), region=REGIONS[number][0])
        for example, number in zip(examples, numbers, strict=True)
    ]


def _opposite(
    harvest: Harvest, component: ComponentRecord, negative_count: int, limit: int, context: int
) -> list[Example]:
    strongest = harvest.stored_examples(component.key, "top").at_firing(harvest.ranking_kind)
    if not len(strongest):
        return []
    negative = bool(strongest[0] >= 0)
    n_opposite = negative_count if negative else component.firing_count - negative_count
    if n_opposite < BOTH_SIGNS * component.firing_count:
        return []
    uniform = harvest.stored_examples(component.key, "uniform")
    values = uniform.at_firing(harvest.ranking_kind)
    of_sign = np.flatnonzero((values < 0) == negative)
    order = of_sign[np.argsort(-np.abs(values[of_sign]), kind="stable")].tolist()
    found = uniform.take(order).of_many_tokens(harvest.tokens(), _MAX_PER_TOKEN, limit)
    return harvest.widened(component.key, found, context)


def _tokens(harvest: Harvest, key: str | ComponentKey, side: Side, limit: int) -> TokenOverview:
    stats = harvest.token_stats(key, side)
    return TokenOverview(
        n_tokens=len(stats),
        total=float(stats.count.sum()),
        dropped_mass=stats.dropped_mass,
        by_recall=stats.lists("recall", limit),
        by_pmi=stats.lists("pmi", limit),
    )


def _strongest_tokens(harvest: Harvest, key: str | ComponentKey, limit: int) -> StrongestTokens:
    tokens = harvest.example_tokens(key, "top")
    token_ids, counts = np.unique(tokens, return_counts=True)
    return StrongestTokens(n_examples=len(tokens), tokens=most_frequent(harvest, token_ids, counts, limit))


def _silent_tokens(harvest: Harvest, key: str | ComponentKey, limit: int) -> list[SilentToken]:
    stats, total = harvest.token_stats(key), harvest.vocabulary("input")
    silent = total.copy()
    silent[stats.token] -= stats.count
    return [
        SilentToken(
            token_id=token.token_id,
            text=token.text,
            count=token.count,
            total=int(total[token.token_id]),
            share=token.count / int(total[token.token_id]),
        )
        for token in most_frequent(harvest, np.arange(len(silent)), silent, limit)
    ]


def _cofiring(harvest: Harvest, key: str | ComponentKey, limit: int) -> CoFiring:
    pairs = harvest.pairs(key)

    def listed(metric: PairMetric, n: int, *, weakest: bool = False) -> list[CorrelatedComponent]:
        return pairs.records(pairs.ranked(metric, n, weakest), metric, harvest.keys)

    strongest = listed("pmi", limit)
    shown = {component.key for component in strongest}
    return CoFiring(
        n_partners=harvest.n_partners(key),
        by_pmi=_partners(harvest, strongest),
        by_jaccard=_partners(harvest, listed("jaccard", limit)),
        weakest_by_pmi=[other for other in listed("pmi", 2 * limit, weakest=True) if other.key not in shown][:limit],
    )


def _partners(harvest: Harvest, correlated: list[CorrelatedComponent]) -> list[Partner]:
    return [
        Partner(
            **dict(component),
            tokens=most_frequent(harvest, *harvest.token_counts(component.key), _PARTNER_TOKENS),
        )
        for component in correlated
    ]
