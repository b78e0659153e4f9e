"""Strength of an activation as a colour: warm for positive, cold for negative, one step per region of its range."""

from __future__ import annotations

from rich.style import Style

from spd_tools.analysis.regions import REGIONS

POSITIVE = "dark_orange"
NEGATIVE = "dodger_blue1"

# Text alone is coloured below the core, the background from there on: readable on dark and on light terminals.
_STYLES = {
    True: (
        Style(color=POSITIVE, dim=True),
        Style(color=POSITIVE, dim=True),
        Style(color=POSITIVE),
        Style(color="black", bgcolor="#ffcc80"),
        Style(color="black", bgcolor="#ff9800"),
        Style(color="white", bgcolor="#bf360c", bold=True),
    ),
    False: (
        Style(color=NEGATIVE, dim=True),
        Style(color=NEGATIVE, dim=True),
        Style(color=NEGATIVE),
        Style(color="black", bgcolor="#90caf9"),
        Style(color="black", bgcolor="#42a5f5"),
        Style(color="white", bgcolor="#0d47a1", bold=True),
    ),
}


def strength_style(activation: float, effective_max: float) -> Style:
    """Style of a token whose activation is ``activation``, by its region of the range up to ``effective_max`` > 0."""
    share = abs(activation) / effective_max
    region = next(number for number, (_, upper) in enumerate(REGIONS) if share <= upper)
    return _STYLES[activation >= 0][region]
