"""What a compiled rule does, step by step.

Each choice is made when the token that shows it is written: two alternatives never begin with the same token. So the
tokens up to any point tell all choices made so far, no two derivations give the same text, and the probability of the
next token given those before it is the product of the probabilities of the choices it shows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from spd_tools.stories.morphology import Pieces
from spd_tools.stories.telling import Telling
from spd_tools.stories.words import Choice

Outcome = tuple[Pieces, tuple[str, ...]]
"""Tokens, and the categories of the word that they are."""


class Step(ABC):
    """One step of a compiled rule."""

    @abstractmethod
    def run(self, telling: Telling) -> None:
        """Write, draw, remember."""

    @abstractmethod
    def firsts(self, telling: Telling | None) -> set[str]:
        """Tokens it can begin with; without a telling, in any story."""

    @abstractmethod
    def outcomes(self) -> list[Outcome]:
        """Everything it can write itself."""


class Write(Step):
    """Fixed tokens."""

    def __init__(self, tokens: Pieces) -> None:
        self.tokens = tokens

    def run(self, telling: Telling) -> None:
        """Write what comes here."""
        telling.write(self.tokens)

    def firsts(self, telling: Telling | None) -> set[str]:
        """What it can begin with."""
        return {self.tokens[0]}

    def outcomes(self) -> list[Outcome]:
        """What it can write."""
        return [(self.tokens, ())]


class Call(Step):
    """Another rule; which one may hang on a remembered word."""

    def __init__(self, rules: dict[str, list[Step]], fact: tuple[str, str] | None) -> None:
        self.rules, self.fact = rules, fact
        self._only = next(iter(rules.values())) if fact is None else None

    def _rule(self, telling: Telling) -> list[Step]:
        if self._only is not None:
            return self._only
        assert self.fact is not None
        return self.rules[telling.roles[self.fact[0]].facts[self.fact[1]]]

    def run(self, telling: Telling) -> None:
        """Write what comes here."""
        for step in self._rule(telling):
            step.run(telling)

    def firsts(self, telling: Telling | None) -> set[str]:
        """What it can begin with."""
        if telling is None or (self.fact is not None and self.fact[0] not in telling.roles):
            return set().union(*(rule[0].firsts(telling) for rule in self.rules.values()))
        return self._rule(telling)[0].firsts(telling)

    def outcomes(self) -> list[Outcome]:
        """What it can write."""
        return []


class Branch(Step):
    """Several ways to go on."""

    def __init__(self, weights: Sequence[float], ways: Sequence[list[Step]]) -> None:
        self.choice = Choice(weights)
        self.ways = ways

    def run(self, telling: Telling) -> None:
        """Write what comes here."""
        for step in self.ways[telling.choose(self.choice, _Ways(self.ways, telling))]:
            step.run(telling)

    def firsts(self, telling: Telling | None) -> set[str]:
        """What it can begin with."""
        return set().union(*(way[0].firsts(telling) for way in self.ways))

    def outcomes(self) -> list[Outcome]:
        """What it can write."""
        return []


class _Ways:
    __slots__ = ("telling", "ways")

    def __init__(self, ways: Sequence[list[Step]], telling: Telling) -> None:
        self.ways, self.telling = ways, telling

    def firsts(self, index: int) -> set[str]:
        """What it can begin with."""
        return self.ways[index][0].firsts(self.telling)
