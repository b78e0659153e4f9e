"""A story on its way, and who decides how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from spd_tools.stories.morphology import Pieces
from spd_tools.stories.words import Choice, Word


class Chooser(Protocol):
    """Whoever decides how a story goes on."""

    def pick(self, choice: Choice, options: Options) -> int:
        """The index of one alternative."""
        ...

    def wrote(self, tokens: Sequence[str]) -> None:
        """Called with all tokens of the story so far, after some were written."""
        ...


class Options(Protocol):
    """Alternatives that can be told apart by their first tokens."""

    def firsts(self, index: int) -> set[str]:
        """Tokens that an alternative can begin with."""
        ...


class Telling:
    """A story on its way."""

    __slots__ = ("bits", "chooser", "pending", "pick", "roles", "tense", "tokens")

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser
        self.pick = chooser.pick
        self.tokens: list[str] = []
        self.bits: list[float] = []
        """Per token: -log2 of its probability given the tokens before it."""
        self.pending = 0.0
        self.roles: dict[str, Word] = {}
        self.tense: str | None = None

    def choose(self, choice: Choice, options: Options) -> int:
        """Have a choice made; its bits count for the next token."""
        index = self.pick(choice, options)
        self.pending += choice.bits[index]
        return index

    def write(self, tokens: Pieces) -> None:
        """Append tokens."""
        self.tokens += tokens
        self.bits.append(self.pending)
        if len(tokens) > 1:
            self.bits += [0.0] * (len(tokens) - 1)
        self.pending = 0.0
        self.chooser.wrote(self.tokens)
