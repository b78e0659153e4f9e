"""One component on one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from spd_tools.analysis.overview import CoFiring, Overview
from spd_tools.analysis.regions import Regions
from spd_tools.render.examples import ExampleLines, Reading
from spd_tools.render.histogram import histogram
from spd_tools.render.numbers import count, density, number, percent
from spd_tools.render.safe import visible, visible_token
from spd_tools.render.tables import SideBySide, add_cells, correlation_table, plain_table, titled, token_table
from spd_tools.render.tokens import TokenSpelling
from spd_tools.store.records import Example, Side, TokenScore

_REGION_TOKENS = 5
_WEAKEST = 5
_BY_PMI = ("both", "expected", "PMI")
_BY_JACCARD = ("both", "precision", "recall", "Jaccard")
_LEGEND = (
    "recall: share of the component's firings; precision: share of the token's (or the other component's) occurrences; "
    "PMI: ln of observed over expected. Output mass: next-token probability summed over the firings."
)


def reading(overview: Overview, spelling: TokenSpelling) -> Reading:
    """How this component's examples are to be read."""
    return Reading(
        gating_kind=overview.gating_kind,
        ranking_kind=overview.ranking_kind,
        threshold=overview.threshold,
        effective_max=overview.component.effective_max,
        spelling=spelling,
    )


def overview_page(overview: Overview, spelling: TokenSpelling) -> Iterator[RenderableType]:
    """Everything of an overview, top to bottom; of a component that never fired only that."""
    component = overview.component
    yield Text.assemble(
        (visible(str(component.key)), "bold reverse"),
        (visible(f"  run {overview.run_id}, harvest {overview.harvest_id}"), "dim"),
    )
    if not component.firing_count:
        yield Text(f"never fired on {overview.n_tokens:,} tokens")
        return
    fired = f": {component.firing_count:,} of {overview.n_tokens:,} tokens"
    yield Text(f"fires on {density(component.density)}{fired}\n")
    yield _means(overview)
    yield Text()
    yield _range(overview, spelling)
    read = reading(overview, spelling)
    yield Text()
    yield _examples("Examples, a uniform sample of its firings", overview.uniform_examples, read)
    yield Text()
    yield _examples(f"Examples with the largest |{overview.ranking_kind}|", overview.top_examples, read)
    yield from _tokens(overview, spelling)
    yield from _cofiring(overview.cofiring)
    yield Text(_LEGEND, "dim")


def _means(overview: Overview) -> Table:
    component = overview.component
    table = plain_table(["mean of"], right=["over all tokens", "over firings", "of |…| over firings"])
    fired, absolute = component.mean_firing_activations or {}, component.mean_abs_firing_activations or {}
    for kind, mean in component.mean_activations.items():
        add_cells(table, kind, number(mean), number(fired.get(kind)), number(absolute.get(kind)))
    return table


def _range(overview: Overview, spelling: TokenSpelling) -> RenderableType:
    bars = titled(f"{overview.ranking_kind} at its firings", histogram(overview.histogram, width=48, height=7))
    found = overview.regions
    if found is None:
        return titled("", bars, "No firing of it lies in the logged rows, so there are no regions.")
    remark = f"maximum {number(found.effective_max)}: 99.5th percentile of {found.logged_firings:,} logged firings"
    return SideBySide(bars, titled("Regions of |activation|", _regions(found, spelling), remark), least_right=60)


def _regions(found: Regions, spelling: TokenSpelling) -> Table:
    negative = any(region.negative_count for region in found.regions)
    table = plain_table(["region"], right=["above", "firings", *(["negative"] if negative else [])])
    # A column that may wrap is the one that gives way; its cells still stay on one line.
    table.add_column(Text("most frequent tokens"))
    for region in found.regions:
        tokens = (
            f"{visible_token(spelling(token.token_id))} {token.count:,}" for token in region.tokens[:_REGION_TOKENS]
        )
        cells = [region.name, number(region.low), count(region.firing_count)]
        cells += [count(region.negative_count)] if negative else []
        add_cells(table, *cells, Text("  ".join(tokens), no_wrap=True, overflow="ellipsis"))
    return table


def _examples(title: str, examples: Sequence[Example], read: Reading) -> RenderableType:
    return titled(title, ExampleLines(examples, read))


def _tokens(overview: Overview, spelling: TokenSpelling) -> Iterator[RenderableType]:
    inputs, outputs = overview.input_tokens, overview.output_tokens

    def pair(kind: str, on_input: list[TokenScore], on_output: list[TokenScore]) -> RenderableType:
        return SideBySide(
            _token_list(f"Input tokens, {kind}", on_input, "input", spelling),
            _token_list(f"Output tokens, {kind}", on_output, "output", spelling),
        )

    yield Text()
    yield pair("most frequent", inputs.by_recall.top, outputs.by_recall.top)
    yield Text()
    yield pair(f"largest PMI (from {count(inputs.by_pmi.min_count)} up)", inputs.by_pmi.top, outputs.by_pmi.top)
    dropped = percent((outputs.dropped_mass or 0.0) / overview.component.firing_count)
    yield Text(f"{dropped} of the output probability lies on tokens below {overview.p_min:g} each, in no list", "dim")


def _token_list(title: str, scores: list[TokenScore], side: Side, spelling: TokenSpelling) -> RenderableType:
    return titled(title, token_table(scores, side, spelling, brief=True) if scores else Text("none"))


def _cofiring(cofiring: CoFiring) -> Iterator[RenderableType]:
    yield Text()
    if not cofiring.n_partners:
        yield Text("No other component ever fired with it.")
        return
    by_pmi = correlation_table(cofiring.by_pmi, _BY_PMI)
    by_jaccard = correlation_table(cofiring.by_jaccard, _BY_JACCARD)
    yield SideBySide(
        titled(f"Fires together with (of {cofiring.n_partners:,}), by PMI", by_pmi),
        titled("Fires together with, by Jaccard", by_jaccard),
    )
    yield Text()
    if cofiring.weakest_by_pmi:
        weakest = correlation_table(cofiring.weakest_by_pmi[:_WEAKEST], _BY_PMI)
        yield titled("Fires least with, for what chance would give", weakest)
        yield Text()
