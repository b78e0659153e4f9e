"""An evaluation as one HTML page that needs nothing else: no script, no font, no picture from elsewhere.

Whatever comes from data sets, labels and models is escaped text; a policy in the page's head forbids everything but its
own styles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.report import NAMES, Distribution, EvaluationReport, seen_by_author
from spd_tools.files import write_bytes
from spd_tools.render.safe import visible
from spd_tools.wording import plural

_WIDTH, _HEIGHT, _MARGIN, _FOOT = 560, 120, 10, 18
_COLOURS = {
    "label": "#d95f02",
    "none": "#d95f02",
    "another": "#7570b3",
    "empty": "#666666",
    "top_tokens": "#1b9e77",
}
_MARKED = re.compile("«(.*?)»")


def write_report(report: EvaluationReport, path: Path) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        SpdToolsError: when the folder does not exist or cannot be written.
    """
    if not path.parent.is_dir():
        raise SpdToolsError(f"There is no folder {path.parent} to write the report into; make it first.")
    write_bytes(path, report_html(report).encode())


def report_html(report: EvaluationReport) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("spd_tools.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_inert,
    )
    environment.filters |= {"marked": _marked, "number": _number}
    page = environment.get_template("report.html").render(
        report=report,
        names=NAMES,
        seen_by_author=seen_by_author,
        charts=[_chart(report, score) for score in report.settings.scores],
    )
    return page + "\n"


def _inert(value: object) -> object:
    """Text with everything that hides or steers made visible; markup of ours stays as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return value


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _marked(text: str) -> Markup:
    """A window with its marks as elements; everything in it is escaped first."""
    return Markup(_MARKED.sub(r"<mark>\1</mark>", str(escape(visible(text)))))


def _chart(report: EvaluationReport, score: str) -> Markup:
    """Distributions of a score, a line each, and chance, as SVG. Shares of components, so that baselines compare."""
    found = [each for each in report.distributions if each.score == score and each.n]
    if not found:
        return Markup("<p>No component has a value.</p>")
    low, high, chance = found[0].low, found[0].high, found[0].chance
    top = max(max(each.bins) / each.n for each in found)

    def x(value: float) -> float:
        return _MARGIN + (value - low) / (high - low) * (_WIDTH - 2 * _MARGIN)

    lines = "".join(_outline(each, top) for each in found)
    ticks = "".join(
        f'<text x="{x(value):.1f}" y="{_HEIGHT + _FOOT - 4}" text-anchor="middle">{value:g}</text>'
        for value in (low, (low + high) / 2, high)
    )
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _FOOT}" width="{_WIDTH}" height="{_HEIGHT + _FOOT}" role="img" '
        f'aria-label="distribution of {score}">'
        f'<line x1="{_MARGIN}" y1="{_HEIGHT}" x2="{_WIDTH - _MARGIN}" y2="{_HEIGHT}" stroke="#888"/>'
        f'<line x1="{x(chance):.1f}" y1="0" x2="{x(chance):.1f}" y2="{_HEIGHT}" stroke="#888" stroke-dasharray="3 3"/>'
        f"{lines}{ticks}</svg>"
    )


def _outline(found: Distribution, top: float) -> str:
    colour = _COLOURS[found.judged]
    filled = 0.35 if found.judged in ("label", "none") else 0.0
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in _steps(found.bins, found.n * top))
    return (
        f'<polygon points="{points}" fill="{colour}" fill-opacity="{filled}" stroke="{colour}" stroke-width="1.5">'
        f"<title>{NAMES[found.judged]}: {plural(found.n, 'component')}</title></polygon>"
    )


def _steps(bins: Sequence[int], top: float) -> list[tuple[float, float]]:
    width = (_WIDTH - 2 * _MARGIN) / len(bins)
    points = [(float(_MARGIN), float(_HEIGHT))]
    for at, count in enumerate(bins):
        y = _HEIGHT - (_HEIGHT - 6) * count / top
        points += [(_MARGIN + at * width, y), (_MARGIN + (at + 1) * width, y)]
    return [*points, (float(_WIDTH - _MARGIN), float(_HEIGHT))]
