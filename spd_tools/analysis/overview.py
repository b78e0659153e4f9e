"""Everything about one component on one page."""

from __future__ import annotations

import numpy as np

from spd_tools.analysis.regions import REGIONS, RegionName, Regions, region_numbers, regions
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import (
    ComponentRecord,
    CorrelatedComponent,
    Example,
    ExampleKind,
    HistogramBin,
    Record,
    Side,
    TokenLists,
)


class ShownExample(Example):
    """An example and where in the component's range it lies."""

    region: RegionName | None
    """None when the log has no firing of the component, so its range is not known."""


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


class CoFiring(Record):
    """Components that fire together with this one."""

    n_partners: int
    """Components that fired with it at least once."""
    by_pmi: list[CorrelatedComponent]
    by_jaccard: list[CorrelatedComponent]
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
    histogram: list[HistogramBin]
    uniform_examples: list[ShownExample]
    top_examples: list[ShownExample]
    input_tokens: TokenOverview
    output_tokens: TokenOverview
    cofiring: CoFiring
    regions: Regions | None
    """None when the log has no firing of it."""


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
        n_examples: uniform ones, and as many top ones.
        context: tokens to each side of an example's firing.
        n_tokens: entries per token list.
        n_components: entries per list of co-firing components.

    Raises:
        SpdToolsError: for an unknown component or a negative number.
    """
    component = harvest.component(key)
    config = harvest.manifest.config
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
        histogram=harvest.histogram(key),
        uniform_examples=_examples(harvest, component, "uniform", n_examples, context),
        top_examples=_examples(harvest, component, "top", n_examples, context),
        input_tokens=_tokens(harvest, key, "input", n_tokens),
        output_tokens=_tokens(harvest, key, "output", n_tokens),
        cofiring=_cofiring(harvest, key, n_components),
        regions=regions(harvest, key, n_tokens),
    )


def _summary(component: ComponentRecord, n_tokens: int) -> str:
    if not component.firing_count:
        return f"{component.key} never fired on the {n_tokens:,} tokens of this harvest."
    share = f"{100 * component.density:.3g} %"
    return f"{component.key} fired on {component.firing_count:,} of {n_tokens:,} tokens ({share})."


def _examples(
    harvest: Harvest, component: ComponentRecord, kind: ExampleKind, limit: int, context: int
) -> list[ShownExample]:
    examples = harvest.examples(component.key, kind, limit, context)
    effective_max = component.effective_max
    if effective_max is None:
        return [ShownExample(**dict(example), region=None) for example in examples]
    at_firing = [example.activations[harvest.ranking_kind][example.firing_index] for example in examples]
    numbers = region_numbers(np.array(at_firing, np.float32), effective_max).tolist()
    return [
        ShownExample(**dict(example), region=REGIONS[number][0])
        for example, number in zip(examples, numbers, strict=True)
    ]


def _tokens(harvest: Harvest, key: str | ComponentKey, side: Side, limit: int) -> TokenOverview:
    stats = harvest.token_stats(key, side)
    return TokenOverview(
        n_tokens=len(stats),
        total=float(stats.count.sum()),
        dropped_mass=stats.dropped_mass,
        by_recall=stats.lists("recall", limit),
        by_pmi=stats.lists("pmi", limit),
    )


def _cofiring(harvest: Harvest, key: str | ComponentKey, limit: int) -> CoFiring:
    strongest = harvest.correlated(key, "pmi", limit)
    shown = {component.key for component in strongest}
    weakest = harvest.correlated(key, "pmi", 2 * limit, weakest=True)
    return CoFiring(
        n_partners=harvest.n_partners(key),
        by_pmi=strongest,
        by_jaccard=harvest.correlated(key, "jaccard", limit),
        weakest_by_pmi=[component for component in weakest if component.key not in shown][:limit],
    )
