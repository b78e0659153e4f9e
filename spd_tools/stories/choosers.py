"""Who makes a story's choices: chance, or a text that is there already."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress

from spd_tools.errors import SpdToolsError
from spd_tools.stories.grammar import Grammar
from spd_tools.stories.telling import Options, Telling
from spd_tools.stories.words import Choice


class Chance:
    """Draws every choice by its probability, the same way for the same seed and number."""

    def __init__(self, seed: int, number: int) -> None:
        # Python promises that random() gives the same numbers in all versions.
        self._random = random.Random((seed << 64) | number).random

    def pick(self, choice: Choice, options: Options) -> int:
        """An alternative."""
        return bisect_right(choice.cumulative, self._random())

    def wrote(self, tokens: Sequence[str]) -> None:
        """Nothing to do."""


class _EndOfTextError(Exception):
    """The text ends before the story does."""


class _Reading:
    """Follows a text: every choice is what the next token shows."""

    def __init__(self, tokens: Sequence[str], start: int) -> None:
        self._tokens, self._start = tokens, start
        self._at = start

    def pick(self, choice: Choice, options: Options) -> int:
        if self._at >= len(self._tokens):
            raise _EndOfTextError
        token = self._tokens[self._at]
        fits = [n for n in range(len(choice.bits)) if token in options.firsts(n)]
        if not fits:
            raise self._no_story()
        assert len(fits) == 1, f"{token!r} does not tell {fits} apart"
        return fits[0]

    def wrote(self, tokens: Sequence[str]) -> None:
        end = self._start + len(tokens)
        some = list(self._tokens[self._at : end])
        if some != tokens[self._at - self._start : self._at - self._start + len(some)]:
            raise self._no_story()
        self._at = end
        if end > len(self._tokens):
            raise _EndOfTextError

    def _no_story(self) -> SpdToolsError:
        before = "".join(self._tokens[max(self._start, self._at - 8) : self._at + 1])
        return SpdToolsError(f"The grammar tells no story that goes on like this: {before!r}.")


def read_bits(grammar: Grammar, tokens: Sequence[str]) -> list[float]:
    """-log2 of each token's probability given those before it, of stories one after the other.

    The last story may be cut off anywhere.

    Raises:
        SpdToolsError: when the grammar does not tell these stories.
    """
    bits: list[float] = []
    while len(bits) < len(tokens):
        telling = Telling(_Reading(tokens, len(bits)))
        with suppress(_EndOfTextError):
            grammar.tell(telling)
        bits += telling.bits
    return bits[: len(tokens)]
