"""Examples, one per line: the firing token in the middle, tokens coloured by how strongly the component fires there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from spd_tools.render.colours import strength_style
from spd_tools.render.numbers import number
from spd_tools.render.safe import visible
from spd_tools.render.tokens import TokenSpelling
from spd_tools.store.records import Example

_FOCUS = ("«", "»")
_OTHER = ("‹", "›")
_ELLIPSIS = "…"
_SHORT_NAMES = {"causal_importance": "CI", "component_activation": "act", "activation": "act"}
_LEFT_SHARE = 0.6
"""Share of the context's columns before the firing token: what led to a firing stands there."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a component's activations and tokens are to be read."""

    gating_kind: str
    ranking_kind: str
    threshold: float
    effective_max: float | None
    """Ranking activation at which colours are strongest; None: the strongest of the examples."""
    spelling: TokenSpelling

    @property
    def kinds(self) -> list[str]:
        """Kinds whose values at the firing stand before each example."""
        return list(dict.fromkeys((self.ranking_kind, self.gating_kind)))


class ExampleLines:
    """Renders as one line per example, as wide as there is room."""

    def __init__(self, examples: Sequence[Example], reading: Reading) -> None:
        self._examples = examples
        self._reading = reading
        strongest = max((abs(self._at_firing(example) or 0.0) for example in examples), default=0.0)
        self._scale = reading.effective_max or strongest or 1.0

    def _at_firing(self, example: Example) -> float | None:
        return example.activations[self._reading.ranking_kind][example.firing_index]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A header that names the numbers, then the examples."""
        colour = console.color_system is not None and not console.no_color
        names = "".join(f"{_SHORT_NAMES.get(kind, kind)[:7]:>8}" for kind in self._reading.kinds)
        others = "the stronger, the deeper the colour" if colour else "other firings in ‹›"
        yield Text(f"{names}  of the firing token «»; {others}", "dim", no_wrap=True, overflow="ellipsis")
        for example in self._examples:
            label = self._label(example)
            context = self._context(example, options.max_width - label.cell_len, colour)
            yield Text.assemble(label, context, no_wrap=True)

    def _label(self, example: Example) -> Text:
        values = (example.activations[kind][example.firing_index] for kind in self._reading.kinds)
        return Text("".join(f"{number(value):>8}" for value in values) + "  ", "dim")

    def _context(self, example: Example, width: int, colour: bool) -> Text:
        at = example.firing_index
        texts = self._reading.spelling.running(example.token_ids, at)
        pieces = [self._piece(visible(text), at, example, colour) for at, text in enumerate(texts)]
        focus = _cut(pieces[at], width)
        left_width = int((width - focus.cell_len) * _LEFT_SHARE)
        left = _ending(pieces[:at], left_width)
        return left + focus + _beginning(pieces[at + 1 :], width - left_width - focus.cell_len)

    def _piece(self, text: str, at: int, example: Example, colour: bool) -> Text:
        """One token; where no activation is stored (None) it looks like one that does not fire."""
        gating = example.activations[self._reading.gating_kind][at]
        ranking = example.activations[self._reading.ranking_kind][at]
        if gating is None or ranking is None or not gating > self._reading.threshold:
            return Text(text)
        style = strength_style(ranking, self._scale)
        if at == example.firing_index:
            return Text.assemble((_FOCUS[0], "bold"), (text or "∅", style), (_FOCUS[1], "bold"))
        return Text(text, style) if colour or not text else Text(f"{_OTHER[0]}{text}{_OTHER[1]}")


def _cut(text: Text, width: int) -> Text:
    """The text, cut and marked where it is wider than ``width``."""
    if text.cell_len > width:
        text = text.copy()
        text.truncate(width, overflow="ellipsis")
    return text


def _beginning(pieces: Sequence[Text], width: int) -> Text:
    line = Text()
    for piece in pieces:
        if line.cell_len + piece.cell_len > width:
            return _cut(line + piece, width)
        line.append_text(piece)
    return line


def _ending(pieces: Sequence[Text], width: int) -> Text:
    """The last of the pieces that fit, right-aligned in ``width`` columns."""
    line = Text()
    for piece in reversed(pieces):
        if line.cell_len + piece.cell_len > width:
            line = Text(_ELLIPSIS, "dim") + _tail(piece + line, width - 1)
            break
        line = piece + line
    return Text(" " * (width - line.cell_len)) + line


def _tail(text: Text, width: int) -> Text:
    """The longest end of the text that is at most ``width`` columns wide."""
    plain = text.plain
    begin = len(plain)
    room = width
    while begin and (room := room - cell_len(plain[begin - 1])) >= 0:
        begin -= 1
    return text[begin:]
