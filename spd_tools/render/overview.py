"""One component on one page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from spd_tools.analysis.overview import BOTH_SIGNS, CoFiring, Overview
from spd_tools.analysis.positions import PositionRange
from spd_tools.analysis.regions import Regions
from spd_tools.render.colours import NEGATIVE, POSITIVE
from spd_tools.render.examples import ExampleLines, Reading
from spd_tools.render.histogram import histogram
from spd_tools.render.labels import label_line
from spd_tools.render.numbers import count, density, number, percent
from spd_tools.render.safe import visible
from spd_tools.render.tables import (
    SideBySide,
    add_cells,
    counted_tokens,
    one_line,
    partner_table,
    plain_table,
    silent_table,
    titled,
    token_table,
)
from spd_tools.store.records import CorrelatedComponent, Side, TokenScore
from spd_tools.store.tokentext import TokenText
from spd_tools.wording import plural

if TYPE_CHECKING:
    from spd_tools.annotations import LabelRecord

_WEAKEST = 5
_BY_PMI = ("both", "expected", "PMI")
_BY_JACCARD = ("both", "precision", "recall", "Jaccard")
_LEGEND = (
    "recall: share of the component's firings; precision: share of the token's (or the other component's) occurrences; "
    "PMI: ln of observed over expected. Output mass: next-token probability summed over the firings."
)


def reading(overview: Overview, spelling: TokenText) -> Reading:
    """How this component's examples are to be read."""
    return Reading(
        gating_kind=overview.gating_kind,
        ranking_kind=overview.ranking_kind,
        threshold=overview.threshold,
        effective_max=overview.component.effective_max,
        spelling=spelling,
    )


def overview_page(
    overview: Overview, spelling: TokenText, label: LabelRecord | None = None
) -> Iterator[RenderableType]:
    """Everything of an overview, top to bottom; of a component that never fired only that.

    ``label``: the component's, where it has one.
    """
    component = overview.component
    yield Text.assemble(
        (visible(str(component.key)), "bold reverse"),
        (visible(f"  run {overview.run_id}, harvest {overview.harvest_id}"), "dim"),
    )
    if label is not None:
        yield label_line(label)
    if not component.firing_count:
        yield Text(f"never fired on {overview.n_tokens:,} tokens")
        return
    yield Text(_headline(overview) + "\n")
    yield _means(overview)
    yield Text()
    yield _range(overview, spelling)
    if overview.positions is not None:
        yield _positions(overview.positions)
    yield Text()
    yield from _tokens(overview, spelling)
    read = reading(overview, spelling)
    yield Text()
    yield titled("Examples, a uniform sample of its firings", ExampleLines(overview.uniform_examples, read))
    yield Text()
    yield from _top(overview, read, spelling)
    yield from _cofiring(overview.cofiring, spelling)
    yield Text(_LEGEND, "dim")


def _headline(overview: Overview) -> str:
    component = overview.component
    line = f"fires on {density(component.density)}: {component.firing_count:,} of {overview.n_tokens:,} tokens"
    if not overview.negative_count:
        return line
    share = percent(overview.negative_count / component.firing_count)
    return f"{line}; {share} of its firings have a negative {overview.ranking_kind}"


def _means(overview: Overview) -> Table:
    component = overview.component
    table = plain_table(["mean of"], right=["over all tokens", "over firings", "of |…| over firings"])
    fired, absolute = component.mean_firing_activations or {}, component.mean_abs_firing_activations or {}
    for kind, mean in component.mean_activations.items():
        add_cells(table, kind, number(mean), number(fired.get(kind)), number(absolute.get(kind)))
    return table


def _range(overview: Overview, spelling: TokenText) -> RenderableType:
    bars = titled(f"{overview.ranking_kind} at its firings", histogram(overview.histogram, width=48, height=7))
    found = overview.regions
    if found is None:
        return titled("", bars, "No firing of it lies in the logged rows, so there are no regions.")
    negative = sum(region.negative.firing_count for region in found.regions) / found.logged_firings
    both_signs = BOTH_SIGNS <= negative <= 1 - BOTH_SIGNS
    table = _signed_regions(found, spelling) if both_signs else _regions(found, spelling)
    remark = (
        f"maximum {number(found.effective_max)}: 99.5th percentile of {plural(found.logged_firings, 'logged firing')}"
    )
    return SideBySide(bars, titled("Regions of |activation|", table, remark), least_right=90 if both_signs else 60)


def _regions(found: Regions, spelling: TokenText) -> Table:
    table = plain_table(["region"], right=["above", "firings"])
    # A column that may wrap is the one that gives way; its cells still stay on one line.
    table.add_column(Text("most frequent tokens"))
    for region in found.regions:
        cells = [region.name, number(region.low), count(region.firing_count)]
        add_cells(table, *cells, one_line(counted_tokens(region.tokens, spelling)))
    return table


def _signed_regions(found: Regions, spelling: TokenText) -> Table:
    table = plain_table(["region"], right=["above", "positive"])
    table.add_column(Text("most frequent tokens"), ratio=1)
    table.add_column(Text("negative"), justify="right", no_wrap=True)
    table.add_column(Text("most frequent tokens"), ratio=1)
    for region in found.regions:
        cells: list[str | Text] = [region.name, number(region.low)]
        for side, style in ((region.positive, POSITIVE), (region.negative, NEGATIVE)):
            cells += [Text(count(side.firing_count), style), one_line(counted_tokens(side.tokens, spelling))]
        add_cells(table, *cells)
    return table


def _positions(found: list[PositionRange]) -> Text:
    def place(part: PositionRange) -> str:
        return f"{part.first}" if part.first == part.last else f"{part.first}–{part.last}"

    # Lines break between ranges only.
    parts = (f"{place(part)}: {percent(part.density)}".replace(" ", "\N{NO-BREAK SPACE}") for part in found)
    return Text("Density by position in the row  ", "bold cyan").append("   ".join(parts), "not bold default")


def _top(overview: Overview, read: Reading, spelling: TokenText) -> Iterator[RenderableType]:
    strongest = overview.strongest_tokens
    if not strongest.n_examples:
        return
    yield titled(
        f"Examples with the largest |{overview.ranking_kind}|, at most two per token",
        ExampleLines(overview.top_examples, read),
    )
    yield Text(f"All {strongest.n_examples} largest: {visible(counted_tokens(strongest.tokens, spelling))}", "dim")
    yield Text()
    if overview.opposite_examples:
        yield titled(
            "The strongest of the opposite sign, out of all stored uniform examples",
            ExampleLines(overview.opposite_examples, read),
        )
        yield Text()


def _tokens(overview: Overview, spelling: TokenText) -> Iterator[RenderableType]:
    inputs, outputs = overview.input_tokens, overview.output_tokens
    yield SideBySide(
        _token_list("Input tokens, most frequent", inputs.by_recall.top, "input", spelling),
        _token_list("Output tokens, largest mass", outputs.by_recall.top, "output", spelling),
    )
    yield Text()
    largest = "largest PMI (from {} up)"
    if overview.silent_tokens:
        left = titled("Input tokens, most often without a firing", silent_table(overview.silent_tokens, spelling))
    else:
        title = f"Input tokens, {largest.format(count(inputs.by_pmi.min_count))}"
        left = _token_list(title, inputs.by_pmi.top, "input", spelling)
    title = f"Output tokens, {largest.format(count(outputs.by_pmi.min_count))}"
    yield SideBySide(left, _token_list(title, outputs.by_pmi.top, "output", spelling))
    dropped = percent((outputs.dropped_mass or 0.0) / overview.component.firing_count)
    yield Text(f"{dropped} of the output probability lies on tokens below {overview.p_min:g} each, in no list", "dim")


def _token_list(title: str, scores: list[TokenScore], side: Side, spelling: TokenText) -> RenderableType:
    return titled(title, token_table(scores, side, spelling, brief=True) if scores else Text("none"))


def _cofiring(cofiring: CoFiring, spelling: TokenText) -> Iterator[RenderableType]:
    if not cofiring.n_partners:
        yield Text("No other component ever fired with it.")
        return
    by_pmi = partner_table(cofiring.by_pmi, _BY_PMI, spelling)
    by_jaccard = partner_table(cofiring.by_jaccard, _BY_JACCARD, spelling)
    yield SideBySide(
        titled(f"Fires together with (of {cofiring.n_partners:,}), by PMI", by_pmi),
        titled("Fires together with, by Jaccard", by_jaccard),
        least_right=72,
    )
    yield Text()
    if cofiring.weakest_by_pmi:
        yield Text.assemble(
            ("Fires least with  ", "bold cyan"), *_least(cofiring.weakest_by_pmi[:_WEAKEST]), ("\n", "")
        )


def _least(weakest: list[CorrelatedComponent]) -> Iterator[str]:
    """Each with how often it fired together, and how often chance would have it."""
    for number_, other in enumerate(weakest):
        separator = ", " if number_ else ""
        both = f"{count(other.count)} of {count(round(other.expected, 1))} expected"
        yield f"{separator}{visible(str(other.key))} ({both})"
