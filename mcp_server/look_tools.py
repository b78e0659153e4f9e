"""Tools that read a harvest."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

from anyio import to_thread
from mcp.server.mcpserver import Context as ToolContext
from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from mcp_server import look_pages
from mcp_server.answers import QUOTED, capped, shown_range
from mcp_server.experiment_pages import cofiring_page, result_page
from mcp_server.model import Models
from mcp_server.notes_pages import label_rows
from mcp_server.overviews import overview_answer
from mcp_server.parameters import (
    MAX_NAME,
    MAX_TOKEN,
    Author,
    HarvestId,
    Key,
    Limit,
    Offset,
    OptionalText,
    Run,
    author_of,
)
from mcp_server.pictures import Answer, Plot, range_plots
from mcp_server.runs import Runs
from mcp_server.tools import EXPERIMENTS, READS, tool
from spd_tools.errors import SpdToolsError
from spd_tools.render.numbers import percent
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import ExampleKind, PairMetric, Side, TokenMetric
from spd_tools.wording import plural

if TYPE_CHECKING:
    from spd_tools.experiments import Result
    from spd_tools.investigate import Investigation

Density = Annotated[float, Field(ge=0, le=1)]
Context = Annotated[int, Field(ge=0, le=64, description="tokens to each side of the firing")]
_MAX_GIVEN_TOKEN = 10
_KEPT = 128
_NARROWER = "Ask for fewer with limit, and for the next ones with offset."


class Look:
    """What a harvest counted. Only what is stored as evidence waits for the model's lock."""

    def __init__(self, runs: Runs, models: Models) -> None:
        self._runs = runs
        self._models = models

    def tools(self) -> list[Tool]:
        """All of them."""
        return [
            tool(self.runs, "List harvested runs", READS),
            tool(self.find_components, "Find components", READS),
            tool(self.overview, "Overview of a component", READS),
            tool(self.examples, "Texts on which a component fires", READS),
            tool(self.token_stats, "Tokens of a component", EXPERIMENTS),
            tool(self.correlations, "Co-firing components", EXPERIMENTS),
        ]

    def runs(self) -> str:
        """List what has been harvested: run ids, harvests, layers and their numbers of components.

        Start here when you do not know what there is. Every other tool takes `run` (may be left out when there is only
        one) and `harvest` (default: the newest finished one). Components are named LAYER:INDEX, for example
        h.0.mlp.c_fc:12. Next: find_components, or overview of a component. Nothing there: harvest_start.
        """
        from spd_tools.settings import Settings
        from spd_tools.store.inventory import HOW_TO_HARVEST, stored_harvests

        settings = Settings.from_environment()
        harvests = stored_harvests(settings)
        if not harvests:
            return f"Nothing has been harvested in {settings.harvests_dir}; call harvest_start, or {HOW_TO_HARVEST}."
        return capped(look_pages.runs_page(harvests), "`spd-tools runs` lists all of them.")

    def find_components(
        self,
        token: Annotated[
            OptionalText,
            Field(max_length=MAX_TOKEN, description='text of one token with its leading space, e.g. " the"'),
        ] = "",
        side: Annotated[Side, Field(description="input: fires on the token; output: it is predicted there")] = "input",
        layer: Annotated[
            OptionalText, Field(max_length=MAX_NAME, description='layer name or pattern with * and ?, e.g. "h.0.*"')
        ] = "",
        min_density: Annotated[Density, Field(description="least share of tokens on which it fires")] = 0.0,
        max_density: Annotated[Density, Field(description="largest share of tokens on which it fires")] = 1.0,
        label_query: Annotated[
            OptionalText, Field(max_length=MAX_NAME, description="words of labels to search for, instead of the rest")
        ] = "",
        sort: Literal["", "index", "density", "recall", "precision", "lift", "pmi"] = "",
        limit: Limit = 20,
        offset: Offset = 0,
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Find components by a token they fire on (or that is predicted where they fire), by layer, density or label.

        With `token`: components sorted by PMI with it (at least 5 firings on it); sort by recall to see which fires
        most often on it, by precision to see which the token sets off most reliably. With `label_query`: full-text
        search over the labels written so far. Shows co-occurrence only: that a component fires on a token does not say
        that the token causes it. Next: overview of the most interesting one; sweep tests a token as the cause.
        """
        from spd_tools.analysis.search import search

        opened = self._runs.harvest(run, harvest)
        if label_query:
            if token or layer or sort or min_density > 0 or max_density < 1:
                raise SpdToolsError("A search in labels takes no token, layer, density or sort; leave those out.")
            return label_rows(opened, label_query, limit, offset)
        found = search(
            opened,
            token=token or None,
            side=side,
            layer=layer or None,
            min_density=min_density,
            max_density=max_density,
            order=sort or None,
            limit=limit + offset,
        )
        part = shown_range(offset, len(found.hits[offset:]), found.n_components, "components")
        return capped(f"{part} {look_pages.search_page(opened, side, found, offset)}", _NARROWER)

    def overview(
        self,
        key: Key,
        examples: Annotated[int, Field(ge=0, le=20, description="uniform and as many top examples")] = 5,
        context: Context = 12,
        plot: Plot = False,
        run: Run = "",
        harvest: HarvestId = "",
    ) -> Answer:
        """Everything the harvest says about one component on one page; the first thing to read about it.

        Density, regions of its activation range (floor to extreme) with their tokens, input and predicted tokens,
        density by position, a uniform sample of its firings, the strongest ones, co-firing components, and what is on
        record about it (label, evidence). All of it is observational: it suggests hypotheses and proves none. Uniform
        examples and the core region say what it means; top examples alone mislead. Statistics over firings cannot show
        suppression or what a component does: that takes ablate. Next: write down at least two hypotheses (hypothesis),
        then the experiment that tells them apart (sweep, minimal_context, interact), then ablate for the output side.
        """
        opened = self._runs.harvest(run, harvest)
        page = overview_answer(opened, key, examples, context)
        return [page, *range_plots(opened, key)] if plot else page

    def examples(
        self,
        key: Key,
        kind: Annotated[
            ExampleKind, Field(description="uniform: a fair sample of all firings; top: the strongest")
        ] = "uniform",
        limit: Limit = 20,
        offset: Offset = 0,
        context: Context = 16,
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Texts of the harvest on which a component fires, the firing token marked.

        Read uniform ones to learn what it does in general, top ones to see its extreme. Each line has the activations
        at the firing and row:position; "row:12" can be given as a text to probe. Shows where it fires, never where it
        stays silent although it should fire: compare with sweep or probe.
        """
        return _examples_page(self._runs.harvest(run, harvest), key, kind, limit, offset, context)

    async def token_stats(
        self,
        call: ToolContext,
        key: Key,
        side: Annotated[Side, Field(description="input: tokens it fires on; output: tokens predicted there")] = "input",
        metric: TokenMetric | Literal["enrichment"] = "pmi",
        limit: Limit = 20,
        offset: Offset = 0,
        author: Author = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Tokens on which a component fires (input), or that the model predicts where it fires (output).

        recall: share of its firings on the token; precision: share of the token's occurrences on which it fires; lift:
        precision over density; pmi: ln of observed over expected (from 5 firings up). A token with precision 100 %
        sets it off wherever it stands; a low precision means that context decides: minimal_context finds out what.
        enrichment (input only): E[activation given the token] split into firing rate and size, with intervals and
        corrected p-values; it is stored as evidence. Output tokens are what the model predicts there, not what the
        component writes: see direct_effect and ablate. All of it is observational: sweep tests a token as the cause.
        """
        opened = self._runs.harvest(run, harvest)
        if metric != "enrichment":
            return await to_thread.run_sync(_token_page, opened, key, side, metric, limit, offset)
        if side != "input" or offset:
            raise SpdToolsError("Enrichment is of input tokens, from the first on; leave side and offset out.")
        opened.keys.flat(key)

        def enrich(investigation: Investigation) -> Result:
            from spd_tools.experiments.enrichment import EnrichmentResult

            fields = {"key": key, "limit": limit}
            result = investigation.run("enrichment", fields, author=author_of(author))
            assert isinstance(result, EnrichmentResult)
            return result.model_copy(update={"strongest": result.fired_on})

        result = await self._models.use(call, opened, f"enrichment of {look_pages.name_of(key)}", enrich)
        return capped(result_page(result, opened.token_texts), _NARROWER)

    async def correlations(
        self,
        call: ToolContext,
        key: Key,
        metric: PairMetric = "pmi",
        weakest: Annotated[bool, Field(description="those that fire together least instead of most")] = False,
        given_token: Annotated[
            bool, Field(description="also test, for at most 10, whether they co-fire beyond what the token explains")
        ] = False,
        limit: Limit = 20,
        offset: Offset = 0,
        author: Author = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Components that fire together with one, over all harvested tokens.

        precision: P(other fires | this fires); recall: P(this | other); expected: co-firings if they were independent.
        Two components that fire on the same token co-fire without having anything to do with each other: given_token
        compares them within each token, adds the cosines of their read and write vectors, and stores that as evidence.
        An odds ratio near 1 given the token: the token explains it. High Jaccard and cosines near 1: duplicates.
        Observational either way.
        """
        opened = self._runs.harvest(run, harvest)
        if not given_token:
            return await to_thread.run_sync(_pairs_page, opened, key, metric, weakest, limit, offset)
        others = opened.correlated(key, metric, min(limit, _MAX_GIVEN_TOKEN) + offset, weakest)[offset:]
        if not others:
            return "No component can be listed: too few firings, together or expected by chance."

        def compare(investigation: Investigation) -> str:
            from spd_tools.experiments.cofiring import CofiringResult
            from spd_tools.experiments.statistics import holm

            found: list[CofiringResult] = []
            for other in others:
                fields = {"key": key, "other": str(other.key)}
                result = investigation.run("cofiring", fields, author=author_of(author))
                assert isinstance(result, CofiringResult)
                found.append(result)
            tested = [result.p_value for result in found if result.p_value is not None]
            corrected = iter(holm(tested))
            return cofiring_page(found, [None if result.p_value is None else next(corrected) for result in found])

        what = f"co-firing of {look_pages.name_of(key)}"
        return capped(await self._models.use(call, opened, what, compare), _NARROWER)


# What a harvest says never changes, and several agents often look at one component: pages are kept.


@lru_cache(_KEPT)
def _examples_page(harvest: Harvest, key: str, kind: ExampleKind, limit: int, offset: int, context: int) -> str:
    total = len(harvest.stored_examples(key, kind).row)
    found = harvest.examples(key, kind, limit + offset, context)[offset:]
    lines = look_pages.ExampleLines(harvest)
    part = shown_range(offset, len(found), total, f"stored {kind} examples")
    return capped(f"{part} {QUOTED}\n{lines.legend}\n{lines.lines(found)}", _NARROWER)


@lru_cache(_KEPT)
def _token_page(harvest: Harvest, key: str, side: Side, metric: TokenMetric, limit: int, offset: int) -> str:
    stats = harvest.token_stats(key, side)
    lists = stats.lists(metric, limit + offset)
    shown = lists.top[offset:]
    page = [
        f"{look_pages.name_of(key)}: {side} tokens by {metric}, {plural(stats.firing_count, 'firing')} on "
        f"{plural(stats.n_tokens, 'token')}. {shown_range(offset, len(shown), lists.n_eligible, 'tokens')} {QUOTED}",
        look_pages.token_rows(shown, side, harvest.token_texts),
    ]
    if stats.dropped_mass is not None and stats.firing_count:
        dropped = percent(stats.dropped_mass / stats.firing_count)
        page.append(f"{dropped} of the output probability lies on tokens too improbable to be listed.")
    return capped("\n\n".join(page), _NARROWER)


@lru_cache(_KEPT)
def _pairs_page(harvest: Harvest, key: str, metric: PairMetric, weakest: bool, limit: int, offset: int) -> str:
    found = harvest.correlated(key, metric, limit + offset, weakest)
    shown, n_partners = found[offset:], harvest.n_partners(key)
    if not shown:
        return f"Nothing from offset {offset} on: {plural(n_partners, 'component')} fired with it at least once."
    more = f" The next, if there are any: offset={offset + limit}." if len(shown) == limit else ""
    order = "lowest" if weakest else "highest"
    head = (
        f"{look_pages.name_of(key)}: components that fire with it, {order} {metric} first, from {offset + 1} on; "
        f"{n_partners:,} fired with it at least once.{more}"
    )
    return capped(f"{head}\n\n{look_pages.pair_rows(shown)}", _NARROWER)
