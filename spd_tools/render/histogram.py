"""A histogram as bars of block characters over a linear axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from spd_tools.render.colours import NEGATIVE, POSITIVE
from spd_tools.render.numbers import number
from spd_tools.store.records import HistogramBin

_BLOCKS = " ▁▂▃▄▅▆▇█"
_TAIL = 0.001
"""Share of the firings at either end that may lie beyond the axis; they stand in its outermost bars."""


def histogram(bins: Sequence[HistogramBin], width: int = 64, height: int = 4) -> Text:
    """Bars and axis, ``height + 1`` lines; the stored bins (ascending, 8 per octave) are spread over their widths."""
    edges, cumulative = _cumulative(bins)
    low, high = _axis(edges, cumulative)
    columns = np.linspace(low, high, width + 1)
    at_columns = np.interp(columns, edges, cumulative)
    at_columns[0], at_columns[-1] = 0.0, cumulative[-1]
    per_column = np.diff(at_columns)
    eighths = np.ceil(per_column / per_column.max() * 8 * height).astype(int)
    eighths[per_column < 0.01] = 0  # rounding of the interpolation, not a firing
    lines = Text()
    for row in range(height - 1, -1, -1):
        for column in range(width):
            style = POSITIVE if columns[column] >= 0 else NEGATIVE
            lines.append(_BLOCKS[int(np.clip(eighths[column] - 8 * row, 0, 8))], style)
        lines.append("\n")
    return lines + _axis_line(low, high, width)


def _finite_edges(bin_: HistogramBin) -> tuple[float, float]:
    """(low, high), the overflow bins closed at twice their inner edge."""
    if math.isinf(bin_.low):
        return 2 * bin_.high, bin_.high
    return bin_.low, 2 * bin_.low if math.isinf(bin_.high) else bin_.high


def _cumulative(bins: Sequence[HistogramBin]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(values, firings below them): piecewise linear inside bins, flat between them."""
    edges: list[float] = []
    below: list[float] = []
    total = 0
    for bin_ in bins:
        edges += _finite_edges(bin_)
        below += [total, total + bin_.count]
        total += bin_.count
    return np.array(edges), np.array(below, float)


def _axis(edges: NDArray[np.float64], below: NDArray[np.float64]) -> tuple[float, float]:
    """Range of the axis: 0 and all firings but a thin tail at either end."""
    total = below[-1]
    low = edges[int(np.searchsorted(below, _TAIL * total, "right")) - 1]
    high = edges[int(np.searchsorted(below, (1 - _TAIL) * total, "left"))]
    return min(0.0, float(low)), max(0.0, float(high))


def _axis_line(low: float, high: float, width: int) -> Text:
    """The axis with its ends and, where it lies inside, zero."""
    left, right = number(low), number(high)
    line = left + " " * max(1, width - len(left) - len(right)) + right
    zero = round(-low / (high - low) * width)
    if len(left) + 1 < zero < width - len(right) - 1:
        line = line[:zero] + "0" + line[zero + 1 :]
    return Text(line, "dim")
