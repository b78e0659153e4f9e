"""What each experiment shows below its main numbers: those about when a component fires."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from spd_tools.render.colours import NEGATIVE, POSITIVE
from spd_tools.render.experiment_effects import ablate, direct_effect, triage
from spd_tools.render.numbers import count, estimate, number, p_value, percent
from spd_tools.render.safe import visible_token
from spd_tools.render.tables import add_cells, facts_table, one_line, plain_table, titled
from spd_tools.render.traced import Traced, TracedTexts
from spd_tools.store.tokentext import TokenText
from spd_tools.wording import plural

if TYPE_CHECKING:
    from spd_tools.experiments import Result
    from spd_tools.experiments.cofiring import CofiringResult
    from spd_tools.experiments.enrichment import EnrichmentResult, TokenEnrichment
    from spd_tools.experiments.generate_and_test import GenerateAndTestResult
    from spd_tools.experiments.interact import InteractResult
    from spd_tools.experiments.minimal_context import MinimalContextResult, MinimalPlace
    from spd_tools.experiments.occlusion import OcclusionResult
    from spd_tools.experiments.position import PositionResult
    from spd_tools.experiments.probe import ProbeResult
    from spd_tools.experiments.sweep import SweepResult
    from spd_tools.store.harvest import Harvest

_PAIRS = 10
_SIGNIFICANT = 0.05


def body(result: Result, harvest: Harvest) -> Iterator[RenderableType]:
    """Tables and texts of a result."""
    yield from _BODIES[result.request.experiment](result, harvest)


def _probe(result: ProbeResult, harvest: Harvest) -> Iterator[RenderableType]:
    texts = [
        Traced(token_ids=text.token_ids, ranking=text.ranking, firing=text.firing_positions) for text in result.texts
    ]
    strongest = harvest.component(result.request.key).effective_max
    yield titled(f"{result.subject.ranking_kind} where it fires", TracedTexts(texts, strongest, harvest.token_texts))


def _enrichment(result: EnrichmentResult, harvest: Harvest) -> Iterator[RenderableType]:
    title = f"Tokens it goes with ({result.n_enriched:,} of {result.n_tested:,} are enriched)"
    yield titled(title, _enriched(result.fired_on, harvest.token_texts), "size: mean |activation| of its firings")
    if result.silent is not None:
        yield Text()
        yield titled("Tokens on which it fires least", _enriched(result.silent, harvest.token_texts))


def _enriched(tokens: Sequence[TokenEnrichment], spelling: TokenText) -> Table:
    names = ["firings", "of", "firing rate", "elsewhere", "size", "elsewhere", "mean", "p"]
    table = plain_table(["token"], right=names)
    for token in tokens:
        rates = f"{percent(token.rate.value)}", _optional_percent(token.rate_elsewhere)
        sizes = estimate(token.size), number(token.size_elsewhere)
        cells = [_token(token.token_id, spelling), count(token.count), count(token.total), *rates, *sizes]
        add_cells(table, *cells, number(token.mean), p_value(token.p_value))
    return table


def _cofiring(result: CofiringResult, harvest: Harvest) -> Iterator[RenderableType]:
    facts = {
        "firings": f"{result.n_i:,} of {result.request.key}, {result.n_j:,} of {result.request.other}, "
        f"{result.n_ij:,} of both; Jaccard {result.jaccard:.3f}",
        "correlation": f"{number(result.correlation)} of the activations where both fire",
        "cosine": f"{number(result.read_cosine)} of read vectors, {number(result.write_cosine)} of write vectors",
    }
    if result.cosines_absent is not None:
        facts["cosine"] = result.cosines_absent
    given = result.given_token
    if given is None:
        facts["given token"] = "no token leaves anything to explain"
    else:
        facts["given token"] = (
            f"on {given.n_informative:,} of {given.n_tokens:,} tokens both sometimes fire and sometimes do not: "
            f"{given.n_common:,} common firings where {number(given.expected)} are expected, odds ratio "
            f"{estimate(given.odds_ratio)}"
        )
    yield facts_table(facts)


def _sweep(result: SweepResult, harvest: Harvest) -> Iterator[RenderableType]:
    table = plain_table(["token"], right=["seen", "response", "with tokens like it", "difference", "fires", "p"])
    for token in result.tokens:
        fires = f"{percent(token.firing_rate)} / {percent(token.control_firing_rate)}"
        estimates = map(estimate, (token.response, token.control, token.difference))
        name = _token(token.token_id, harvest.token_texts, chosen=token.token_id == result.chosen)
        add_cells(table, name, count(token.count), *estimates, fires, p_value(token.p_value))
    yield titled("Tokens put in", table, f"response of the same contexts as they are: {estimate(result.unchanged)}")


def _occlusion(result: OcclusionResult, harvest: Harvest) -> Iterator[RenderableType]:
    table = plain_table(["offset"], right=["contexts", "response", "change", "kept", "fires", "p"])
    table.add_column(Text("tokens whose replacement changed most"))
    for line in result.offsets:
        tokens = "  ".join(
            f"{_token(token.token_id, harvest.token_texts)} {number(token.change)}" for token in line.tokens
        )
        offset = Text(str(line.offset), "bold" if line.offset == result.chosen else "")
        estimates = map(estimate, (line.response, line.change))
        cells = [offset, count(line.n), *estimates, _optional_percent(line.retained), percent(line.firing_rate)]
        add_cells(table, *cells, p_value(line.p_value), one_line(tokens))
    unchanged = f"unchanged: {estimate(result.unchanged)}, fires in {percent(result.unchanged_firing_rate)}"
    yield titled("Tokens replaced, from the measured one back", table, unchanged)


def _minimal_context(result: MinimalContextResult, harvest: Harvest) -> Iterator[RenderableType]:
    lengths = plain_table(["shortest context"], right=["places"])
    for length, n in sorted(result.lengths.items()):
        add_cells(lengths, plural(length, "token") if length != 1 else "the firing token", count(n))
    if result.n_longer:
        add_cells(lengths, f"more than {result.request.max_length}", count(result.n_longer))
    yield lengths
    if result.tokens:
        tokens = plain_table(["token"], right=["offset", "places"])
        for needed in result.tokens:
            add_cells(tokens, _token(needed.token_id, harvest.token_texts), str(needed.offset), count(needed.n))
        yield Text()
        yield titled("Tokens that are needed", tokens)
    places = plain_table(["place"], right=["response", "kept", "by others"])
    places.add_column(Text("its context; what it needs stands in ‹›"))
    for place in result.places:
        cells = [place.place, number(place.response), percent(place.kept), percent(place.kept_by_others)]
        add_cells(places, *cells, one_line(_needed(place, harvest.token_texts)))
    yield Text()
    yield titled("Places", places)


def _needed(place: MinimalPlace, spelling: TokenText) -> str:
    parts = spelling.running(place.context, len(place.context) - 1)
    needed = {len(parts) - 1 + offset for offset in place.offsets}
    return "".join(f"‹{part}›" if at in needed else part for at, part in enumerate(parts))


def _position(result: PositionResult, harvest: Harvest) -> Iterator[RenderableType]:
    absolute = result.request.mode == "absolute"
    names = ["contexts", "response", *([] if absolute else ["with tokens like it"]), "fires"]
    table = plain_table(["position" if absolute else "distance"], right=[*names, *([] if absolute else ["p"])])
    for point in result.points:
        at = Text(str(point.at), "bold" if point.at in (result.chosen, result.opposite) else "")
        compared = [] if absolute else [estimate(point.control)]
        cells = [at, count(point.n), estimate(point.response), *compared, percent(point.firing_rate)]
        add_cells(table, *cells, *([] if absolute else [p_value(point.p_value)]))
    yield titled("Response", table, f"of the same contexts as they are: {estimate(result.unchanged)}")


def _interact(result: InteractResult, harvest: Harvest) -> Iterator[RenderableType]:
    width = len(result.heatmap[0])
    spelling = harvest.token_texts
    table = plain_table(
        ["first \\ second"], right=[_token(pair.second.token_id, spelling).plain for pair in result.pairs[:width]]
    )
    for at, row in enumerate(result.heatmap):
        pairs = result.pairs[at * width : (at + 1) * width]
        cells = [
            Text(f"{number(value)}{'*' if pair.p_value <= _SIGNIFICANT else ''}", POSITIVE if value >= 0 else NEGATIVE)
            for value, pair in zip(row, pairs, strict=True)
        ]
        add_cells(table, _token(pairs[0].first.token_id, spelling), *cells)
    note = "* unlike pairs with another token in either place, corrected p <= 0.05"
    yield titled("I = both - first - second + neither", table, note)
    strongest = sorted(result.pairs, key=lambda pair: -abs(pair.interaction.value))[:_PAIRS]
    names = ["neither", "first", "second", "both", "I", "with tokens like them", "p"]
    lines = plain_table(["first", "second"], right=names)
    for pair in strongest:
        tokens = (_token(token.token_id, spelling) for token in (pair.first, pair.second))
        means = map(number, (pair.neither, pair.first_only, pair.second_only, pair.both))
        add_cells(lines, *tokens, *means, estimate(pair.interaction), estimate(pair.control), p_value(pair.p_value))
    yield Text()
    pairs = plural(len(result.pairs), "pair")
    ranks = f"p: the larger of I's ranks among other tokens in the first and in the second place, corrected for {pairs}"
    yield titled("Mean responses, largest interactions first", lines, ranks)


def _generate_and_test(result: GenerateAndTestResult, harvest: Harvest) -> Iterator[RenderableType]:
    if result.status == "choose near misses":
        table = plain_table(["change", "of positive"])
        table.add_column(Text("text, to be given back as it is"), overflow="fold")
        for candidate in result.candidates:
            add_cells(table, candidate.kind, str(candidate.positive + 1), candidate.text)
        yield titled("Near misses: choose those on which the label says that it does not fire", table)
        return
    confusion = result.confusion
    assert confusion is not None  # of every tested label
    shares = plain_table([""], right=["as the label says", "share"])
    for name, right, n, share in (
        ("positives", confusion.true_positives, result.n_positive, result.sensitivity),
        ("negatives", confusion.true_negatives, result.n_negative, result.specificity),
    ):
        add_cells(shares, name, f"{right} of {n}", estimate(share))
    near = estimate(result.near_miss_specificity)
    yield titled("Texts", shares, f"of the negatives {result.n_near_misses} are near misses; share of those: {near}")
    texts = plain_table(["", "group", "fires"], right=["activation"])
    texts.add_column(Text("text"), overflow="fold")
    for text in sorted(result.texts, key=lambda text: text.as_label_says):
        mark = Text("✓", "green") if text.as_label_says else Text("✗", "red")
        add_cells(texts, mark, text.group, "yes" if text.fired else "no", number(text.max_ranking), text.text)
    yield Text()
    yield texts


def _token(token_id: int, spelling: TokenText, *, chosen: bool = False) -> Text:
    return Text(visible_token(spelling.shown(token_id)), "bold" if chosen else "")


def _optional_percent(share: float | None) -> str:
    return number(None) if share is None else percent(share)


_BODIES: dict[str, Callable[[Any, Harvest], Iterator[RenderableType]]] = {
    "ablate": ablate,
    "cofiring": _cofiring,
    "direct_effect": direct_effect,
    "enrichment": _enrichment,
    "generate_and_test": _generate_and_test,
    "interact": _interact,
    "minimal_context": _minimal_context,
    "occlusion": _occlusion,
    "position": _position,
    "probe": _probe,
    "sweep": _sweep,
    "triage": triage,
}
