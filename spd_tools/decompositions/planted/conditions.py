"""When a planted component fires and how strongly, in plain Python.

This is the oracle that the torch model is tested against, so nothing here knows about weights. Strengths are multiples
of 1/8 (of 1/4 where they feed a note): then so is every activation, on any text, and none comes near the threshold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BIG = 64.0
"""Beats every sum of strengths: what one blocker takes away, and what a required token must bring."""
HASH_STEPS = 32
"""``Scramble`` counts modulo this."""


class Condition(ABC):
    """A component's activation as a function of the tokens up to and including its position."""

    def activation(self, tokens: Sequence[int], position: int) -> float:
        """Component activation at tokens[position]."""
        return float(self._value(tokens, position))

    @abstractmethod
    def _value(self, tokens: Sequence[int], position: int) -> float: ...


def _recent(tokens: Sequence[int], position: int, within: int) -> Sequence[int]:
    """The ``within`` tokens before the position, fewer at the start of the row."""
    return tokens[max(0, position - within) : position]


@dataclass(frozen=True)
class Note:
    """A number that earlier components write into the stream for later ones to read."""

    name: str
    sources: tuple[tuple[Condition, float], ...]
    """(condition of the writing component, its share of the note)."""

    def value(self, tokens: Sequence[int], position: int) -> float:
        """What the note says at tokens[position]."""
        return sum(share * condition.activation(tokens, position) for condition, share in self.sources)


@dataclass(frozen=True)
class Graded(Condition):
    """Strengths of tokens at given distances back, summed; negative ones give negative activations."""

    strengths: Mapping[tuple[int, int], float]
    """(distance back, token) -> strength; distance 0 is the token itself."""

    def _value(self, tokens: Sequence[int], position: int) -> float:
        return sum(
            strength
            for (distance, token), strength in self.strengths.items()
            if distance <= position and tokens[position - distance] == token
        )


@dataclass(frozen=True)
class Bigram(Condition):
    """One of ``seconds`` right after one of ``firsts``."""

    firsts: frozenset[int]
    seconds: frozenset[int]
    strength: float

    def _value(self, tokens: Sequence[int], position: int) -> float:
        if position > 0 and tokens[position] in self.seconds and tokens[position - 1] in self.firsts:
            return self.strength
        return 0.0


@dataclass(frozen=True)
class Gate(Condition):
    """A wanted token, unless a blocker came within the last ``within`` tokens."""

    strengths: Mapping[int, float]
    blockers: frozenset[int]
    within: int = 3

    def _value(self, tokens: Sequence[int], position: int) -> float:
        if any(token in self.blockers for token in _recent(tokens, position, self.within)):
            return 0.0
        return self.strengths.get(tokens[position], 0.0)


@dataclass(frozen=True)
class Conjunction(Condition):
    """One of ``left`` and one of ``right`` in either order; stronger with each partner in the window."""

    left: frozenset[int]
    right: frozenset[int]
    strength: float
    within: int = 3

    def _value(self, tokens: Sequence[int], position: int) -> float:
        recent = _recent(tokens, position, self.within)
        if tokens[position] in self.left:
            return self.strength * sum(token in self.right for token in recent)
        if tokens[position] in self.right:
            return self.strength * sum(token in self.left for token in recent)
        return 0.0


@dataclass(frozen=True)
class FirstPosition(Condition):
    """Any token at the start of a row."""

    strength: float

    def _value(self, tokens: Sequence[int], position: int) -> float:
        return self.strength if position == 0 else 0.0


@dataclass(frozen=True)
class After(Condition):
    """Any token, 1/8 stronger with each position after ``start``."""

    start: int

    def _value(self, tokens: Sequence[int], position: int) -> float:
        return max(0, position - self.start) / 8


@dataclass(frozen=True)
class Before(Condition):
    """A wanted token before position ``end``, 1/8 weaker with each position."""

    wanted: frozenset[int]
    end: int

    def _value(self, tokens: Sequence[int], position: int) -> float:
        return max(0, self.end - position) / 8 if tokens[position] in self.wanted else 0.0


@dataclass(frozen=True)
class Constant(Condition):
    """The same everywhere."""

    strength: float

    def _value(self, tokens: Sequence[int], position: int) -> float:
        return self.strength


@dataclass(frozen=True)
class Impossible(Condition):
    """Two different tokens in one place."""

    one: int
    other: int

    def _value(self, tokens: Sequence[int], position: int) -> float:
        return 1.0 if tokens[position] == self.one and tokens[position] == self.other else 0.0


@dataclass(frozen=True)
class Scramble(Condition):
    """A hash of the last four tokens and the position: looks random, and no single token predicts it."""

    tables: tuple[tuple[int, ...], ...]
    """[distance back][token] -> 0..31"""
    positions: tuple[int, ...]
    """[position] -> 0..31"""
    levels: int
    """It fires on this many of the 32 hash values."""

    def _value(self, tokens: Sequence[int], position: int) -> float:
        total = self.positions[position]
        for distance, table in enumerate(self.tables):
            if distance <= position:
                total += table[tokens[position - distance]]
        return max(0, total % HASH_STEPS - (HASH_STEPS - self.levels - 1)) / 4


@dataclass(frozen=True)
class Echo(Condition):
    """What the note said ``distance`` tokens ago."""

    note: Note
    distance: int

    def _value(self, tokens: Sequence[int], position: int) -> float:
        return self.note.value(tokens, position - self.distance) if position >= self.distance else 0.0


@dataclass(frozen=True)
class Noted(Condition):
    """As strong as the note, on wanted tokens only."""

    wanted: frozenset[int]
    note: Note

    def _value(self, tokens: Sequence[int], position: int) -> float:
        return self.note.value(tokens, position) if tokens[position] in self.wanted else 0.0


@dataclass(frozen=True)
class Inhibited(Condition):
    """A wanted token's strength, less ``factor`` times the note; never below zero."""

    strengths: Mapping[int, float]
    note: Note
    factor: float

    def _value(self, tokens: Sequence[int], position: int) -> float:
        if tokens[position] not in self.strengths:
            return 0.0
        return max(0.0, self.strengths[tokens[position]] - self.factor * self.note.value(tokens, position))
