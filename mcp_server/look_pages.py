"""What a harvest says about components, as compact text for a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from mcp_server.answers import QUOTED, inert, quoted_run, quoted_token, table
from spd_tools.analysis.overview import BOTH_SIGNS, Overview
from spd_tools.analysis.regions import Regions, TokenCount
from spd_tools.analysis.search import SearchResult
from spd_tools.render.numbers import count, date, density, logarithm, number, percent, size
from spd_tools.store.harvest import Harvest
from spd_tools.store.inventory import StoredHarvest
from spd_tools.store.records import CorrelatedComponent, Example, Side, TokenScore
from spd_tools.store.tokentext import TokenText
from spd_tools.wording import plural

_NAME = 80
_LAYERS = 24


def name_of(text: object) -> str:
    """A key, run or layer on one line."""
    return inert(str(text), _NAME)


def runs_page(harvests: Sequence[StoredHarvest]) -> str:
    """One line per harvest, and the layers of each run."""
    rows = []
    for stored in harvests:
        manifest = stored.manifest
        rows.append(
            [
                name_of(stored.run_id),
                name_of(stored.harvest_id),
                stored.state if stored.problem is None else f"{stored.state}: {inert(stored.problem, 200)}",
                count(sum(n for _, n in manifest.decomposition.layers)) if manifest else "–",
                count(manifest.counts.n_tokens) if manifest else "–",
                size(stored.bytes),
                date(stored.modified),
                inert(manifest.decomposition.reference, 200) if manifest else "–",
            ]
        )
    names = ["run", "harvest", "state", "components", "tokens", "size", "changed", "reference"]
    return "\n\n".join([table(names, rows), *_layer_lines(harvests)])


def _layer_lines(harvests: Sequence[StoredHarvest]) -> Iterator[str]:
    seen: set[str] = set()
    for stored in harvests:
        if stored.manifest is None or stored.run_id in seen:
            continue
        seen.add(stored.run_id)
        layers = stored.manifest.decomposition.layers
        shown = ", ".join(f"{name_of(name)} ({n:,})" for name, n in layers[:_LAYERS])
        more = f" and {len(layers) - _LAYERS} more" if len(layers) > _LAYERS else ""
        yield f"Layers of {name_of(stored.run_id)} (components): {shown}{more}."


def search_page(harvest: Harvest, side: Side, found: SearchResult, offset: int) -> str:
    """Components that were found, from ``offset`` on."""
    names = ["component", "firings", "density"]
    if found.token_id is not None:
        names += ["on it" if side == "input" else "mass", "recall", "precision", "lift", "PMI"]
    rows = []
    for hit in found.hits[offset:]:
        cells = [name_of(hit.key), count(hit.firing_count), percent(hit.density)]
        if hit.token is not None:
            cells += [count(hit.token.count), percent(hit.token.recall), percent(hit.token.precision)]
            cells += [number(hit.token.lift), logarithm(hit.token.pmi)]
        rows.append(cells)
    what = f"Sorted by {found.order}."
    if found.token_id is not None:
        token = quoted_token(harvest.token_texts.shown(found.token_id))
        what = f"With the {side} token {token} (id {found.token_id}), sorted by {found.order}. {QUOTED}"
    return f"{what}\n\n{table(names, rows)}"


def token_rows(scores: Iterable[TokenScore], side: Side, spelling: TokenText) -> str:
    """Tokens with all their scores."""
    counted = "firings" if side == "input" else "mass"
    names = ["token", "id", counted, "of", "recall", "precision", "lift", "PMI"]
    rows = [
        [
            quoted_token(spelling.shown(score.token_id)),
            str(score.token_id),
            count(score.count),
            count(score.total),
            percent(score.recall),
            percent(score.precision),
            number(score.lift),
            logarithm(score.pmi),
        ]
        for score in scores
    ]
    return table(names, rows) if rows else "None."


def pair_rows(correlated: Iterable[CorrelatedComponent]) -> str:
    """Components that fire together with one."""
    names = ["component", "fires", "both", "expected", "precision", "recall", "Jaccard", "PMI"]
    rows = [
        [
            name_of(other.key),
            count(other.firing_count),
            count(other.count),
            count(round(other.expected, 1)),
            percent(other.precision),
            percent(other.recall),
            f"{other.jaccard:.3f}",
            logarithm(other.pmi),
        ]
        for other in correlated
    ]
    return table(names, rows) if rows else "None."


class ExampleLines:
    """Examples as lines: activations at the firing, where it stands, and the text with the firing token in «»."""

    def __init__(self, harvest: Harvest) -> None:
        self._kinds = list(dict.fromkeys((harvest.ranking_kind, harvest.gating_kind)))
        self._gating = harvest.gating_kind
        self._threshold = harvest.manifest.config.threshold
        self._spelling = harvest.token_texts

    @property
    def legend(self) -> str:
        """What the columns are."""
        values = ", ".join(map(name_of, self._kinds))
        return f"{values} at the firing token «»; row:position; other firings in ‹›"

    def lines(self, examples: Iterable[Example]) -> str:
        """One line per example."""
        return "\n".join(self._line(example) for example in examples) or "None."

    def _line(self, example: Example) -> str:
        values = " ".join(number(example.activations[kind][example.firing_index]) for kind in self._kinds)
        tokens = self._spelling.running(example.token_ids, example.firing_index)
        # The marks stand beside the tokens: a long token loses its end, not its mark.
        parts = chain.from_iterable(self._marked(example, at, token) for at, token in enumerate(tokens))
        start = "" if example.start else "(row starts) "
        return f"- {values} {example.row}:{example.position} {start}{quoted_run(parts)}"

    def _marked(self, example: Example, at: int, token: str) -> tuple[str, ...]:
        if at == example.firing_index:
            return "«", token, "»"
        return ("‹", token, "›") if self._fires(example, at) else (token,)

    def _fires(self, example: Example, at: int) -> bool:
        gating = example.activations[self._gating][at]
        return gating is not None and gating > self._threshold


def overview_pages(harvest: Harvest, found: Overview) -> tuple[str, str]:
    """One component on one page: what kind of answer this is, and everything else."""
    component = found.component
    head = f"# {name_of(component.key)} (run {name_of(found.run_id)}, harvest {name_of(found.harvest_id)})"
    kind = (
        f"Observational: counts over {found.n_tokens:,} harvested tokens. They show what goes with its firings, "
        "not what causes them or what it does to the output."
    )
    if not component.firing_count:
        return f"{head}\n{kind}", "It never fired on them: dead on this data."
    parts = [f"{_headline(found)}\n{_means(found)}"]
    parts += [*_range(found, harvest.token_texts), *_tokens(found, harvest.token_texts)]
    parts += [*_examples(found, ExampleLines(harvest)), *_cofiring(found, harvest.token_texts)]
    return f"{head}\n{kind}\n{QUOTED}", "\n\n".join(parts)


def _headline(found: Overview) -> str:
    component = found.component
    line = f"Fires on {density(component.density)}: {component.firing_count:,} of {found.n_tokens:,} tokens"
    if found.negative_count:
        share = percent(found.negative_count / component.firing_count)
        line += f"; {share} of its firings have a negative {name_of(found.ranking_kind)}"
    return f"{line}. It fires where {name_of(found.gating_kind)} > {found.threshold:g}."


def _means(found: Overview) -> str:
    fired = found.component.mean_firing_activations or {}
    return (
        "Mean over its firings: " + ", ".join(f"{name_of(kind)} {number(mean)}" for kind, mean in fired.items()) + "."
    )


def counted(tokens: Iterable[TokenCount], spelling: TokenText) -> str:
    """Tokens with how often each occurs."""
    return ", ".join(f"{quoted_token(spelling.shown(token.token_id))} {token.count:,}" for token in tokens)


def _range(found: Overview, spelling: TokenText) -> Iterator[str]:
    if found.regions is None:
        yield "No firing of it lies in the logged rows, so there are no regions."
    else:
        yield _regions(found.regions, spelling)
    if found.positions is not None:
        places = (
            f"{part.first}{'' if part.first == part.last else f'–{part.last}'}: {percent(part.density)}"
            for part in found.positions
        )
        yield "Density by position in the row: " + ", ".join(places)


def _regions(regions: Regions, spelling: TokenText) -> str:
    negative = sum(region.negative.firing_count for region in regions.regions) / regions.logged_firings
    title = (
        f"## Regions of |{name_of(regions.kind)}| (maximum {number(regions.effective_max)}: 99.5th percentile of "
        f"{plural(regions.logged_firings, 'logged firing')}). The core says what it means, the extreme alone misleads."
    )
    if BOTH_SIGNS <= negative <= 1 - BOTH_SIGNS:
        names = ["region", "above", "positive", "most frequent tokens", "negative", "most frequent tokens"]
        rows = [
            [
                region.name,
                number(region.low),
                count(region.positive.firing_count),
                counted(region.positive.tokens, spelling),
                count(region.negative.firing_count),
                counted(region.negative.tokens, spelling),
            ]
            for region in regions.regions
        ]
    else:
        names = ["region", "above", "firings", "most frequent tokens"]
        rows = [
            [region.name, number(region.low), count(region.firing_count), counted(region.tokens, spelling)]
            for region in regions.regions
        ]
    return f"{title}\n{table(names, rows)}"


def _tokens(found: Overview, spelling: TokenText) -> Iterator[str]:
    inputs, outputs = found.input_tokens, found.output_tokens
    yield f"## Input tokens, most frequent of {inputs.n_tokens:,}\n" + token_rows(
        inputs.by_recall.top, "input", spelling
    )
    if found.silent_tokens:
        silent = (
            f"{quoted_token(spelling.shown(token.token_id))} {token.count:,} of {token.total:,}"
            for token in found.silent_tokens
        )
        yield "## Input tokens, most often without a firing\n" + ", ".join(silent)
    else:
        yield f"## Input tokens by PMI (from {count(inputs.by_pmi.min_count)} firings up)\n" + token_rows(
            inputs.by_pmi.top, "input", spelling
        )
    yield "## Predicted tokens where it fires, by PMI\n" + token_rows(outputs.by_pmi.top, "output", spelling)


def _examples(found: Overview, lines: ExampleLines) -> Iterator[str]:
    yield f"## Examples, a uniform sample of its firings ({lines.legend})\n" + lines.lines(found.uniform_examples)
    ranking = name_of(found.ranking_kind)
    yield f"## Examples with the largest |{ranking}|, at most two per token\n" + lines.lines(found.top_examples)
    if found.opposite_examples:
        yield "## The strongest of the opposite sign\n" + lines.lines(found.opposite_examples)


def _cofiring(found: Overview, spelling: TokenText) -> Iterator[str]:
    cofiring = found.cofiring
    if not cofiring.n_partners:
        yield "No other component ever fired with it."
        return
    rows = [
        [
            name_of(other.key),
            count(other.count),
            count(round(other.expected, 1)),
            f"{other.jaccard:.3f}",
            logarithm(other.pmi),
            ", ".join(quoted_token(spelling.shown(token.token_id)) for token in other.tokens),
        ]
        for other in cofiring.by_pmi
    ]
    title = f"## Fires together with, by PMI (of {plural(cofiring.n_partners, 'component')})"
    yield title + "\n" + table(["component", "both", "expected", "Jaccard", "PMI", "it fires most on"], rows)
