"""The lists that one command each prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from spd_tools.render.examples import ExampleLines, Reading
from spd_tools.render.numbers import count, logarithm, number, percent
from spd_tools.render.safe import visible, visible_token
from spd_tools.render.tables import add_cells, correlation_table, plain_table, titled, token_table
from spd_tools.wording import plural

if TYPE_CHECKING:
    from spd_tools.analysis.search import SearchResult
    from spd_tools.analysis.similarity import SimilarComponent
    from spd_tools.store.harvest import Harvest
    from spd_tools.store.records import CorrelatedComponent, Example, Side, TokenLists
    from spd_tools.store.scores import TokenStats


def examples_page(harvest: Harvest, key: str, kind: str, examples: Sequence[Example]) -> RenderableType:
    """Examples of one component."""
    if not examples:
        return Text(visible(f"{key} has no examples."))
    read = Reading(
        gating_kind=harvest.gating_kind,
        ranking_kind=harvest.ranking_kind,
        threshold=harvest.manifest.config.threshold,
        effective_max=harvest.component(key).effective_max,
        spelling=harvest.token_texts,
    )
    return titled(f"{key}: {plural(len(examples), f'{kind} example')}", ExampleLines(examples, read))


def tokens_page(harvest: Harvest, key: str, stats: TokenStats, lists: TokenLists) -> RenderableType:
    """Best and worst tokens of one component."""
    spelling = harvest.token_texts
    of = f"{lists.n_eligible:,} of {plural(len(stats), f'{stats.side} token')} with at least {count(lists.min_count)}"
    if not lists.top:
        return Text(visible(f"{key} has no {stats.side} tokens to list: {of}."))
    parts = [titled(f"{key}: highest {lists.metric}, {of}", token_table(lists.top, stats.side, spelling))]
    if lists.bottom:
        parts += [Text(), titled(f"lowest {lists.metric}", token_table(lists.bottom, stats.side, spelling))]
    if stats.dropped_mass is not None:
        dropped = percent(stats.dropped_mass / stats.firing_count)
        parts.append(
            Text(f"{dropped} of the probability lies on tokens below {harvest.manifest.config.p_min:g}", "dim")
        )
    return Group(*parts)


def correlations_page(
    key: str, metric: str, weakest: bool, correlated: Sequence[CorrelatedComponent]
) -> RenderableType:
    """Components that fire with one."""
    if not correlated:
        return Text(visible(f"No component can be listed for {key}: too few firings, together or expected by chance."))
    order = "lowest" if weakest else "highest"
    return titled(f"{key}: co-firing components, {order} {metric}", correlation_table(correlated))


def similar_page(key: str, direction: str, similar: Sequence[SimilarComponent]) -> RenderableType:
    """Components with a similar vector."""
    table = plain_table(["component"], right=["cosine"])
    for other in similar:
        add_cells(table, str(other.key), f"{other.cosine:+.3f}")
    return titled(f"{key}: components with a similar {direction} vector", table)


def search_page(harvest: Harvest, side: Side, result: SearchResult) -> RenderableType:
    """Components that were found."""
    if not result.hits:
        return Text("No component matches.")
    names = ["firings", "density"]
    title = f"{plural(result.n_components, 'component')} {'matches' if result.n_components == 1 else 'match'}"
    if result.token_id is not None:
        names += ["on it" if side == "input" else "mass", "recall", "precision", "lift", "PMI"]
        title += f" the {side} token {visible_token(harvest.token_texts.shown(result.token_id))}"
    table = plain_table(["component"], right=names)
    for hit in result.hits:
        cells = [str(hit.key), count(hit.firing_count), percent(hit.density)]
        if hit.token is not None:
            cells += [count(hit.token.count), percent(hit.token.recall), percent(hit.token.precision)]
            cells += [number(hit.token.lift), logarithm(hit.token.pmi)]
        add_cells(table, *cells)
    shown = f" (the first {len(result.hits)} by {result.order})" if len(result.hits) < result.n_components else ""
    return titled(title + shown, table)
