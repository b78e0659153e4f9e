"""Lists of tokens, components, harvests and checks as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from spd_tools.render.numbers import count, logarithm, number, percent
from spd_tools.render.safe import visible, visible_token
from spd_tools.store.tokentext import TokenText

if TYPE_CHECKING:
    from spd_tools.analysis.overview import Partner, SilentToken
    from spd_tools.analysis.regions import TokenCount
from spd_tools.store.records import CorrelatedComponent, Side, TokenScore

_BRIEF_TOKEN_WIDTH = 16
_PARTNER_TOKENS_WIDTH = 20
_GAP = 4
_WIDE_GAP = 3
"""Between columns, as rich sets them."""
_LEAST_TEXT = 16
"""Columns that are left to a text which may be cut."""


class PlainTable(Table):
    """A table that keeps its numbers whole: columns for which there is no room follow below, as lines of their own."""

    def __init__(self) -> None:
        super().__init__(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, with narrower gaps where that is enough, else several that all begin with its first column."""
        widths = [_least_width(console, options, column) for column in self.columns]
        tight = copy(self)
        tight.padding = (0, 1, 0, 0)
        for table, gap in ((self, _WIDE_GAP), (tight, _WIDE_GAP - 1)):
            if sum(widths) + gap * (len(widths) - 1) <= options.max_width:
                yield from Table.__rich_console__(table, console, options)
                return
        for at_part, places in enumerate(_parts(widths, options.max_width)):
            if at_part:
                yield Text()
            part = copy(self)
            part.columns = [replace(self.columns[place], _index=at) for at, place in enumerate(places)]
            yield from Table.__rich_console__(part, console, options)


def _least_width(console: Console, options: ConsoleOptions, column: Column) -> int:
    """Columns that it needs: uncut, or what is enough of a text that may be cut or wrapped."""
    widest = max(Measurement.get(console, options, cell).maximum for cell in (column.header, *column.cells))
    return max(widest if column.no_wrap else min(widest, _LEAST_TEXT), column.width or 0)


def _parts(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Which columns stand beside each other: the first one, and as many others as there is room for."""
    part, used = [0], widths[0]
    for place, width in enumerate(widths[1:], 1):
        if used + _WIDE_GAP + width > room and len(part) > 1:
            yield part
            part, used = [0], widths[0]
        part.append(place)
        used += _WIDE_GAP + width
    yield part


def plain_table(names: Sequence[str], *, right: Sequence[str] = ()) -> Table:
    """An empty table with the columns ``names`` (left-aligned) and ``right`` (right-aligned)."""
    table = PlainTable()
    for name in names:
        table.add_column(Text(name), no_wrap=True, overflow="ellipsis")
    for name in right:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table


def add_cells(table: Table, *cells: str | Text) -> None:
    """A row of data: strings are made visible and are not markup."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(visible(cell)) for cell in cells))


def facts_table(facts: Mapping[str, str] | Mapping[str, Text]) -> Table:
    """Names, and what there is to say about each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        table.add_row(Text(name), fact if isinstance(fact, Text) else Text(visible(fact)))
    return table


def titled(title: str, body: RenderableType, caption: str = "") -> RenderableType:
    """A heading, what it is about, and a remark below."""
    parts: list[RenderableType] = [Text(visible(title), "bold cyan"), body]
    if caption:
        parts.append(Text(visible(caption), "dim"))
    return Group(*parts)


def token_table(scores: Sequence[TokenScore], side: Side, spelling: TokenText, *, brief: bool = False) -> Table:
    """Tokens with M (firings or mass), M over all positions, recall, precision, lift and PMI; brief: fewer of them."""
    counted = "firings" if side == "input" else "mass"
    names = (counted, "recall", "precision", "PMI") if brief else (counted, "of", "recall", "precision", "lift", "PMI")
    table = plain_table(["token"], right=names)
    table.columns[0].width = _BRIEF_TOKEN_WIDTH if brief else None
    for score in scores:
        cells = {
            counted: count(score.count),
            "of": count(score.total),
            "recall": percent(score.recall),
            "precision": percent(score.precision),
            "lift": number(score.lift),
            "PMI": logarithm(score.pmi),
        }
        add_cells(table, visible_token(spelling.shown(score.token_id)), *(cells[name] for name in names))
    return table


def silent_table(tokens: Sequence[SilentToken], spelling: TokenText) -> Table:
    """Tokens by how often they occurred without a firing."""
    table = plain_table(["token"], right=["silent", "of", "share"])
    table.columns[0].width = _BRIEF_TOKEN_WIDTH
    for token in tokens:
        text = visible_token(spelling.shown(token.token_id))
        add_cells(table, text, count(token.count), count(token.total), percent(token.share))
    return table


def one_line(text: str) -> Text:
    """Text that is cut rather than wrapped."""
    return Text(visible(text), no_wrap=True, overflow="ellipsis")


def counted_tokens(tokens: Iterable[TokenCount], spelling: TokenText) -> str:
    """Tokens with their counts, on one line."""
    return "  ".join(f"{visible_token(spelling.shown(token.token_id))} {token.count:,}" for token in tokens)


PAIR_COLUMNS = ("fires", "both", "expected", "precision", "recall", "Jaccard", "PMI")


def correlation_table(correlated: Iterable[CorrelatedComponent], columns: Sequence[str] = PAIR_COLUMNS) -> Table:
    """Components that fire together with one; ``columns``: any of PAIR_COLUMNS."""
    table = plain_table(["component"], right=columns)
    for other in correlated:
        cells = _pair_cells(other)
        add_cells(table, str(other.key), *(cells[name] for name in columns))
    return table


def partner_table(partners: Iterable[Partner], columns: Sequence[str], spelling: TokenText) -> Table:
    """The same, with the tokens that each of them fires on most."""
    table = plain_table(["component"], right=columns)
    # A column that may wrap is the one that gives way; its cells still stay on one line.
    table.add_column(Text("fires most on"), max_width=_PARTNER_TOKENS_WIDTH)
    for partner in partners:
        cells = _pair_cells(partner)
        tokens = "  ".join(visible_token(spelling.shown(token.token_id)) for token in partner.tokens)
        add_cells(table, str(partner.key), *(cells[name] for name in columns), one_line(tokens))
    return table


def _pair_cells(other: CorrelatedComponent) -> dict[str, str]:
    return {
        "fires": count(other.firing_count),
        "both": count(other.count),
        "expected": count(round(other.expected, 1)),
        "precision": percent(other.precision),
        "recall": percent(other.recall),
        "Jaccard": f"{other.jaccard:.3f}",
        "PMI": logarithm(other.pmi),
    }


class SideBySide:
    """Two things next to each other where the terminal is wide enough for both, else below each other."""

    def __init__(self, left: RenderableType, right: RenderableType, *, least_right: int | None = None) -> None:
        """``least_right``: columns that are enough for ``right``; default: as many as it takes uncut."""
        self._left = left
        self._right = right
        self._least_right = least_right

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A grid of two columns, or one after the other."""
        left, right = (Measurement.get(console, options, side).maximum for side in (self._left, self._right))
        room = options.max_width - left - _GAP
        if room >= (right if self._least_right is None else min(right, self._least_right)):
            grid = Table.grid(padding=(0, _GAP, 0, 0))
            grid.add_column(width=left)
            grid.add_column(width=min(room, right))
            grid.add_row(self._left, self._right)
            yield grid
        else:
            yield self._left
            yield Text()
            yield self._right
