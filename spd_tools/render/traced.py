"""Whole texts, their tokens coloured by how strongly a component fires on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.style import Style
from rich.text import Text

from spd_tools.render.colours import strength_style
from spd_tools.render.numbers import number
from spd_tools.render.safe import visible, visible_token
from spd_tools.store.tokentext import TokenText

_FIRING = ("‹", "›")
_LISTED = 8


@dataclass(frozen=True, kw_only=True)
class Traced:
    """One text of at least one token, and what the component does at each."""

    token_ids: Sequence[int]
    ranking: Sequence[float]
    firing: Sequence[int]
    """Positions at which it fires."""


class TracedTexts:
    """Renders each text in full, followed by the strengths of its firings."""

    def __init__(self, texts: Sequence[Traced], effective_max: float | None, spelling: TokenText) -> None:
        """``effective_max``: ranking activation at which colours are strongest; None: the strongest of the texts."""
        self._texts = texts
        self._spelling = spelling
        strongest = max((abs(text.ranking[at]) for text in texts for at in text.firing), default=0.0)
        self._scale = effective_max or strongest or 1.0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Two paragraphs per text; without colours firing tokens stand in ‹›."""
        colour = console.color_system is not None and not console.no_color
        for text in self._texts:
            yield self._line(text, colour)
            yield Padding(self._strengths(text), (0, 0, 0, 2), expand=False)

    def _line(self, text: Traced, colour: bool) -> Text:
        line = Text(overflow="fold")
        firing = set(text.firing)
        parts = self._spelling.running(text.token_ids, -2)  # no token is looked at more closely than others
        for fires, run in groupby(range(len(parts)), firing.__contains__):
            line.append(_FIRING[0] if fires and not colour else "")
            for at in run:
                line.append(visible(parts[at]), self._style(text, at) if fires and colour else None)
            line.append(_FIRING[1] if fires and not colour else "")
        return line

    def _style(self, text: Traced, at: int) -> Style:
        return strength_style(text.ranking[at], self._scale)

    def _strengths(self, text: Traced) -> Text:
        def shown(at: int) -> str:
            return f"{visible_token(self._spelling.shown(text.token_ids[at]))} {number(text.ranking[at])}"

        if not text.firing:
            largest = max(range(len(text.ranking)), key=lambda at: abs(text.ranking[at]))
            return Text(f"does not fire; largest activation: {shown(largest)}", "dim")
        strongest = sorted(text.firing, key=lambda at: -abs(text.ranking[at]))
        more = f" and {len(strongest) - _LISTED} more" if len(strongest) > _LISTED else ""
        return Text(f"fires on {', '.join(map(shown, strongest[:_LISTED]))}{more}", "dim")
