"""Plots as PNG bytes, for agents and reports: equal input gives equal bytes.

Figures are drawn by themselves, without pyplot and its global state. Token texts are hostile: they are never read as
mathematics, and what the font cannot draw is spelt out.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from spd_tools.analysis.regions import regions
from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import Estimate
from spd_tools.render.safe import visible_token
from spd_tools.store.records import HistogramBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spd_tools.experiments.interact import InteractResult
    from spd_tools.experiments.position import PositionResult
    from spd_tools.experiments.sweep import SweepResult
    from spd_tools.keys import ComponentKey
    from spd_tools.store.harvest import Harvest

_FONT = "DejaVu Sans"  # comes with matplotlib
_PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False, "family": _FONT}
_LONGEST = 24
_CELL = 100  # characters in the widest cell of a table
_POSITIVE, _NEGATIVE, _CONTROL = "#2b6cb0", "#c05621", "#718096"
_N_BARS = 80
_TAIL = 0.001  # share of the firings at either end that may lie beyond a histogram's axis


def activation_histogram(harvest: Harvest, key: str | ComponentKey) -> bytes:
    """Ranking activations of a component at all of its firings, on a linear axis.

    Stored bins (8 per octave) are spread evenly over their widths. A tail of at most one firing in a thousand at either
    end is collected in the outermost bar.

    Raises:
        SpdToolsError: for an unknown component, or one that never fired.
    """
    bins = harvest.histogram(key)
    if not bins:
        raise SpdToolsError(f"{key} never fired in this harvest, so there is nothing to draw; name another component.")
    edges, counts = _bars(bins)
    figure, axes = _figure(6.4, 3.2)
    colours = [_POSITIVE if low >= 0 else _NEGATIVE for low in edges[:-1]]
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colours)
    n_firings = sum(bin_.count for bin_ in bins)
    _title(axes, f"{key}: {n_firings:,} firings", harvest.ranking_kind, "firings")
    return _png(figure)


def region_table(harvest: Harvest, key: str | ComponentKey, n_tokens: int = 6) -> bytes:
    """The regions of a component's range with their most frequent tokens.

    Raises:
        SpdToolsError: for an unknown component, or one without a logged firing.
    """
    found = regions(harvest, key, n_tokens)
    if found is None:
        raise SpdToolsError(f"{key} has no firing in the log, so its range is not known; name another component.")
    lines = [
        [
            region.name,
            f"above {region.low:.3g}" if region.high is None else f"{region.low:.3g} to {region.high:.3g}",
            f"{region.firing_count:,} ({region.share:.1%})",
            _fitting([f"{shown(token.text, token.token_id)} {token.count:,}" for token in region.tokens]),
        ]
        for region in found.regions
    ]
    figure, axes = _figure(11.0, 2.6)
    axes.set_axis_off()
    header = ["region", f"|{found.kind}|", "firings", "most frequent tokens"]
    table = axes.table(lines, colLabels=header, colWidths=[0.1, 0.16, 0.14, 0.6], cellLoc="left", loc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for cell in table.get_celld().values():
        cell.get_text().set(**_PLAIN)
        cell.PAD = 0.02
    _title(axes, f"{key}: regions of {found.logged_firings:,} logged firings")
    return _png(figure)


def interaction_heatmap(result: InteractResult) -> bytes:
    """Mean interaction of every token pair, 0 in the middle of the colours; * where p <= 0.05."""
    values = np.array(result.heatmap)
    first = [shown(pair.first.text, pair.first.token_id) for pair in result.pairs[:: values.shape[1]]]
    second = [shown(pair.second.text, pair.second.token_id) for pair in result.pairs[: values.shape[1]]]
    figure, axes = _figure(2.8 + 0.8 * len(second), 1.9 + 0.45 * len(first))
    bound = float(np.abs(values).max()) or 1.0
    image = axes.imshow(values, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    axes.set_xticks(range(len(second)), second, rotation=45, ha="right", **_PLAIN)
    axes.set_yticks(range(len(first)), first, **_PLAIN)
    for at, pair in enumerate(result.pairs):
        row, column = divmod(at, len(second))
        dark = abs(values[row, column]) > 0.6 * bound
        star = "*" if pair.p_value <= 0.05 else ""
        text = f"{values[row, column]:.2g}{star}"
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black", **_PLAIN)
    figure.colorbar(image, ax=axes)
    request = result.request
    _title(
        axes,
        f"{request.key}: interaction, n = {result.n}",
        f"token at {request.second_offset}",
        f"token at {request.first_offset}",
    )
    return _png(figure)


def sweep_bars(result: SweepResult) -> bytes:
    """Mean response with each candidate token, its control beside it, with intervals."""
    labels = [shown(token.text, token.token_id) for token in result.tokens]
    responses, controls = [[getattr(token, name) for token in result.tokens] for name in ("response", "control")]
    figure, axes = _figure(2.5 + 0.5 * len(labels), 3.6)
    places = np.arange(len(labels))
    for shift, estimates, colour, label in (
        (-0.2, responses, _POSITIVE, "token"),
        (0.2, controls, _CONTROL, "like frequency"),
    ):
        values = [estimate.value for estimate in estimates]
        axes.bar(places + shift, values, 0.4, yerr=_errors(estimates), color=colour, capsize=2, label=label)
    axes.axhline(result.unchanged.value, color="black", linewidth=0.8, linestyle=":", label="unchanged")
    axes.set_xticks(places, labels, rotation=45, ha="right", **_PLAIN)
    axes.legend(prop={"family": _FONT, "size": 8})
    request = result.request
    _title(axes, f"{request.key}: token at {request.offset}, n = {result.n}", y=f"{request.response} response")
    return _png(figure)


def position_curve(result: PositionResult) -> bytes:
    """Mean response by position or distance, with intervals, and its controls where there are some."""
    request = result.request
    figure, axes = _figure(6.4, 3.4)
    responses = [(point.at, point.response) for point in result.points]
    controls = [(point.at, point.control) for point in result.points if point.control is not None]
    for line, colour, label in ((responses, _POSITIVE, "response"), (controls, _CONTROL, "like frequency")):
        if line:
            estimates = [estimate for _, estimate in line]
            axes.errorbar(
                [at for at, _ in line],
                [estimate.value for estimate in estimates],
                yerr=_errors(estimates),
                color=colour,
                marker="o",
                markersize=3,
                capsize=2,
                label=label,
            )
    axes.axhline(result.unchanged.value, color="black", linewidth=0.8, linestyle=":", label="unchanged")
    axes.legend(prop={"family": _FONT, "size": 8})
    x = "position in the row" if request.mode == "absolute" else "tokens back to the cue"
    _title(axes, f"{request.key}: {request.mode} sweep, n = {result.n}", x, f"{request.response} response")
    return _png(figure)


def shown(text: str | None, token_id: int) -> str:
    """A token's text as a plot can draw it: one line, at most 24 characters, what the font lacks as <U+XXXX>."""
    if text is None:
        return f"<{token_id}>"
    visible = visible_token(text[: 4 * _LONGEST])
    drawn = "".join(char if ord(char) in _glyphs() else f"<U+{ord(char):04X}>" for char in visible)
    return drawn if len(drawn) <= _LONGEST else drawn[: _LONGEST - 1] + "…"


def _fitting(parts: Sequence[str]) -> str:
    """As many of the parts as a table cell holds."""
    lengths = np.cumsum([len(part) + 2 for part in parts])
    return ", ".join(parts[: max(1, int(np.searchsorted(lengths, _CELL, "right")))])


@cache
def _glyphs() -> frozenset[int]:
    """Code points that the font can draw."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(_FONT)).get_charmap())


def _bars(bins: Sequence[HistogramBin]) -> tuple[np.ndarray, np.ndarray]:
    """(edges [n + 1], firings [n]) over zero and all firings but thin tails."""
    # Overflow bins are closed at twice their inner edge.
    lows = np.array([2 * bin_.high if math.isinf(bin_.low) else bin_.low for bin_ in bins])
    highs = np.array([2 * bin_.low if math.isinf(bin_.high) else bin_.high for bin_ in bins])
    counts = np.array([bin_.count for bin_ in bins], np.float64)
    values = np.stack([lows, highs], 1).reshape(-1)
    below = np.stack([np.cumsum(counts) - counts, np.cumsum(counts)], 1).reshape(-1)
    total = below[-1]
    low = min(0.0, float(values[int(np.searchsorted(below, _TAIL * total, "right")) - 1]))
    high = max(0.0, float(values[int(np.searchsorted(below, (1 - _TAIL) * total, "left"))]))
    edges = np.linspace(low, high, _N_BARS + 1)
    cumulative = np.interp(edges, values, below)
    cumulative[0], cumulative[-1] = 0.0, total
    return edges, np.diff(cumulative)


def _errors(estimates: Sequence[Estimate]) -> np.ndarray:
    """[2, n] distances of the ends from the values; 0, so no bar, where there is no interval."""
    ends = [
        (0.0, 0.0) if one.low is None or one.high is None else (one.value - one.low, one.high - one.value)
        for one in estimates
    ]
    return np.maximum(np.array(ends, np.float64).reshape(-1, 2).T, 0.0)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.add_subplot()


def _title(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, fontsize=10, **_PLAIN)
    axes.set_xlabel(x, **_PLAIN)
    axes.set_ylabel(y, **_PLAIN)


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
