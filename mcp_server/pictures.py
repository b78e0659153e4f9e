"""Plots beside the text, for clients that can look at pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mcp.server.mcpserver import Image
from pydantic import Field

from spd_tools.store.harvest import Harvest

if TYPE_CHECKING:
    from spd_tools.experiments import Result

Plot = Annotated[bool, Field(description="also draw it, as PNG where there is something to draw")]
Answer = str | list[str | Image]


def plots_of(result: Result) -> list[Image]:
    """What a result draws; nothing for experiments whose numbers are their best picture."""
    from spd_tools.experiments import plots
    from spd_tools.experiments.interact import InteractResult
    from spd_tools.experiments.position import PositionResult
    from spd_tools.experiments.sweep import SweepResult

    if isinstance(result, InteractResult):
        return [_png(plots.interaction_heatmap(result))]
    if isinstance(result, SweepResult):
        return [_png(plots.sweep_bars(result))]
    if isinstance(result, PositionResult):
        return [_png(plots.position_curve(result))]
    return []


def range_plots(harvest: Harvest, key: str) -> list[Image]:
    """Histogram and regions of a component; none for one that never fired in the logged rows."""
    from spd_tools.experiments import plots

    if not harvest.component(key).logged_firings:
        return []
    return [_png(plots.activation_histogram(harvest, key)), _png(plots.region_table(harvest, key))]


def _png(data: bytes) -> Image:
    return Image(data=data, format="png")
