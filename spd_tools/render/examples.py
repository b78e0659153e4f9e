"""Examples, one per line: the firing token in the middle, tokens coloured by how strongly the component fires there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from spd_tools.render.colours import strength_style
from spd_tools.render.numbers import number
from spd_tools.render.safe import visible
from spd_tools.store.records import Example
from spd_tools.store.tokentext import TokenText

_FOCUS = ("«", "»")
_OTHER = ("‹", "›")
_ELLIPSIS = "…"
_SHORT_NAMES = {"causal_importance": "CI", "component_activation": "act", "activation": "act"}
_LEFT_SHARE = 0.6
"""Largest share of the context's columns before the firing token: what led to a firing stands there."""
_ROW_START = "│"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a component's activations and tokens are to be read."""

    gating_kind: str
    ranking_kind: str
    threshold: float
    effective_max: float | None
    """Ranking activation at which colours are strongest; None: the strongest of the examples."""
    spelling: TokenText

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
        """A header that names the numbers, then the examples; those of one list stand in the same column."""
        colour = console.color_system is not None and not console.no_color
        names = "".join(f"{_SHORT_NAMES.get(kind, kind)[:8]:>9}" for kind in self._reading.kinds)
        others = self._colours() if colour else "other firings in ‹›"
        starts = f"; {_ROW_START} start of the row" if any(not example.start for example in self._examples) else ""
        yield Text(f"{names}  of the firing token «»; {others}{starts}", "dim", no_wrap=True, overflow="ellipsis")
        labels = [self._label(example) for example in self._examples]
        parts = [self._parts(example, colour) for example in self._examples]
        room = options.max_width - max((label.cell_len for label in labels), default=0)
        # No wider than the longest left context: what is saved there goes to the right one.
        left_width = min(int(room * _LEFT_SHARE), max((left.cell_len for left, _, _ in parts), default=0))
        for label, (left, focus, right) in zip(labels, parts, strict=True):
            focus = _cut(focus, room - left_width)
            right = _cut(right, room - left_width - focus.cell_len)
            yield Text.assemble(label, _ending(left, left_width), focus, right, no_wrap=True)

    def _colours(self) -> str:
        strongest = "the stronger, the deeper the colour"
        negative = any((self._at_firing(example) or 0.0) < 0 for example in self._examples)
        return f"{strongest} (orange above zero, blue below)" if negative else strongest

    def _label(self, example: Example) -> Text:
        values = (example.activations[kind][example.firing_index] for kind in self._reading.kinds)
        return Text("".join(f"{number(value):>9}" for value in values) + "  ", "dim")

    def _parts(self, example: Example, colour: bool) -> tuple[Text, Text, Text]:
        """The context before the firing token, the token, and the context after it."""
        at = example.firing_index
        texts = [visible(text) for text in self._reading.spelling.running(example.token_ids, at)]
        start = Text("" if example.start else _ROW_START, "dim")
        left = Text.assemble(start, self._context(texts, example, range(at), colour))
        style = self._style(example, at) or ""
        focus = Text.assemble((_FOCUS[0], "bold"), (texts[at] or "∅", style), (_FOCUS[1], "bold"))
        return left, focus, self._context(texts, example, range(at + 1, len(texts)), colour)

    def _context(self, texts: Sequence[str], example: Example, places: Sequence[int], colour: bool) -> Text:
        """Tokens around the firing one: firing ones coloured, or each run of them in marks."""
        line = Text()
        for firing, run in groupby(places, lambda place: self._style(example, place) is not None):
            marked = firing and not colour
            line.append(_OTHER[0] if marked else "")
            for place in run:
                line.append(texts[place], self._style(example, place) if colour else None)
            line.append(_OTHER[1] if marked else "")
        return line

    def _style(self, example: Example, at: int) -> Style | None:
        """Colour of a firing token; None for one that does not fire or whose activation is not stored."""
        gating = example.activations[self._reading.gating_kind][at]
        ranking = example.activations[self._reading.ranking_kind][at]
        if gating is None or ranking is None or not gating > self._reading.threshold:
            return None
        return strength_style(ranking, self._scale)


def _cut(text: Text, width: int) -> Text:
    """The text, cut and marked where it is wider than ``width``."""
    if text.cell_len > width:
        text = text.copy()
        text.truncate(max(0, width), overflow="ellipsis")
    return text


def _ending(text: Text, width: int) -> Text:
    """The end of the text, right-aligned in ``width`` columns."""
    if text.cell_len > width:
        text = Text(_ELLIPSIS, "dim") + _tail(text, width - 1)
    return Text(" " * (width - text.cell_len)) + text


def _tail(text: Text, width: int) -> Text:
    """The longest end of the text that is at most ``width`` columns wide."""
    plain = text.plain
    begin = len(plain)
    room = width
    while begin and (room := room - cell_len(plain[begin - 1])) >= 0:
        begin -= 1
    return text[begin:]
