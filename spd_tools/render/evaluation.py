"""An evaluation on the terminal: distributions beside their baselines, best and worst components, cost, failures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from spd_tools.evaluate.report import NAMES, seen_by_author
from spd_tools.render.numbers import number, percent
from spd_tools.render.safe import visible
from spd_tools.render.tables import add_cells, facts_table, one_line, plain_table, titled
from spd_tools.wording import plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spd_tools.annotations.records import Score
    from spd_tools.evaluate.records import ComponentScore, LabelSource
    from spd_tools.evaluate.report import Comparison, Distribution, EvaluationReport, Extremes, ShownComponent
    from spd_tools.evaluate.runner import EvaluationSummary

_BLOCKS = " ▁▂▃▄▅▆▇█"


def evaluation_page(report: EvaluationReport, summary: EvaluationSummary) -> Iterator[RenderableType]:
    """The page, top to bottom."""
    settings = report.settings
    yield Text.assemble(
        (visible(report.id), "bold reverse"),
        visible(f"  {report.run_id}, harvest {settings.harvest_id}, judged by {settings.model}"),
    )
    yield Text(visible(_done(summary)), "dim")
    yield Text()
    for section in _sections(report):
        yield section
        yield Text()
    for remark in report.remarks:
        yield Text(visible(remark), "dim")


def _sections(report: EvaluationReport) -> Iterator[RenderableType]:
    yield titled("Scores", distributions(report.distributions), "Bars: components by value; ┃ is chance.")
    if report.labels:
        yield titled("Labels", _sources(report.labels))
    if report.comparisons:
        yield titled("Against baselines", comparisons(report.comparisons))
    for extremes in report.extremes:
        yield from _extremes(extremes)
    yield titled("Cost", facts_table(_costs(report)))
    if report.failures:
        yield titled("Failed trials", _counts(report.failures, "trials"))
    if report.unscored:
        yield titled("Components without a score", _counts(report.unscored, "components"))


def _done(summary: EvaluationSummary) -> str:
    parts = [plural(summary.n_components, "component"), plural(summary.n_scored, "score")]
    if summary.n_known:
        parts.append(f"{summary.n_known:,} of them known from an earlier run")
    if summary.n_unscored:
        parts.append(f"{summary.n_unscored:,} without a value")
    if summary.n_left:
        parts.append(f"{summary.n_left:,} left, as calls were not sent")
    return ", ".join(parts)


def distributions(found: Sequence[Distribution]) -> RenderableType:
    """One line per score and kind of label."""
    table = plain_table(["score", "judged"], right=["n", "mean", "quartiles", "none", "chance"])
    table.add_column(Text("from worst to best"), no_wrap=True)
    for each in found:
        quartiles = "–" if each.quartiles is None else " ".join(f"{value:.2f}" for value in each.quartiles)
        cells = (each.score, NAMES[each.judged], f"{each.n:,}", number(each.mean), quartiles, f"{each.n_unscored:,}")
        add_cells(table, *cells, number(each.chance), Text(_bars(each)))
    return table


def _bars(found: Distribution) -> str:
    most = max(found.bins, default=0) or 1
    bars = [_BLOCKS[-(-8 * count // most)] for count in found.bins]
    chance = int((found.chance - found.low) / (found.high - found.low) * len(bars))
    return "".join(bars[:chance]) + "┃" + "".join(bars[chance:])


def _sources(labels: Sequence[LabelSource]) -> RenderableType:
    """Whose labels were judged, and what they are blind to."""
    table = plain_table(["by"], right=["components"])
    table.add_column(Text("what their author may have seen"), overflow="fold")
    for each in labels:
        add_cells(table, each.author, f"{each.n:,}", seen_by_author(each))
    return table


def comparisons(found: Sequence[Comparison]) -> RenderableType:
    """How much better labels are than what they are compared with."""
    table = plain_table(["score", "baseline"], right=["n", "mean difference", "label is better"])
    for each in found:
        cells = (each.score, NAMES[each.baseline], f"{each.n:,}", f"{each.mean_difference:+.3f}")
        add_cells(table, *cells, percent(each.share_better))
    return table


def _extremes(extremes: Extremes) -> Iterator[RenderableType]:
    for name, components in (("Best", extremes.best), ("Worst", extremes.worst)):
        if components:
            yield titled(f"{name} by {extremes.score}", _components(components))
            yield from _not_blind(components)


def _components(components: Sequence[ShownComponent]) -> RenderableType:
    table = plain_table(["component"], right=["score", "95 % interval", "trials", "failed"])
    table.add_column(Text("label"))
    for each in components:
        own = each.own
        cells = (str(own.key), number(own.value), _interval(own), f"{own.n_trials}", f"{own.failed}")
        add_cells(table, *cells, one_line(each.label or "–"))
    return table


def _not_blind(components: Sequence[ShownComponent]) -> Iterator[RenderableType]:
    """A remark for each component whose label was not blind to the data set."""
    for each in components:
        note = None if each.own.origin is None else each.own.origin.note(each.own.key)
        if note is not None:
            yield Text(visible(note), "dim")


def _interval(row: ComponentScore | Score) -> str:
    return "–" if row.low is None or row.high is None else f"{number(row.low)} to {number(row.high)}"


def _costs(report: EvaluationReport) -> dict[str, str]:
    facts = {
        cost.model: f"{plural(cost.trials, 'trial')}, "
        f"{plural(cost.usage.input + cost.usage.cache_read + cost.usage.cache_write, 'token')} in, "
        f"{cost.usage.output:,} out, ${cost.dollars:,.4f}"
        for cost in report.costs
    }
    if report.spending is not None:
        paid = f"${report.spending.dollars:,.4f} under the name of this evaluation, failures and repeats included"
        if report.spending.n_unknown:
            paid += (
                f"; at most ${report.spending.unknown_dollars:,.4f} more for "
                f"{plural(report.spending.n_unknown, 'request')} of unknown outcome"
            )
        facts["paid"] = paid
    return facts or {"paid": "nothing"}


def _counts(reasons: Mapping[str, int], unit: str) -> RenderableType:
    table = plain_table([], right=[unit])
    table.add_column(Text("reason"), overflow="fold")
    for reason, count in reasons.items():
        add_cells(table, f"{count:,}", reason)
    return table
