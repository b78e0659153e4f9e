"""A planted condition as neurons of the torch model, and how its component reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spd_tools.decompositions.planted import conditions as c

WINDOW = 4
"""A layer sees its position and the three before it."""


@dataclass(frozen=True)
class Stream:
    """Where things are in the residual stream: tokens | position | notes | words to come."""

    vocab_size: int
    scrambles: tuple[c.Scramble, ...]
    """Each has a row of the position embedding."""
    notes: tuple[str, ...]

    @property
    def position(self) -> int:
        """Holds position / 8."""
        return self.vocab_size

    @property
    def first(self) -> int:
        """Holds 1 at position 0."""
        return self.vocab_size + 1

    def hash(self, scramble: c.Scramble) -> int:
        """Holds the position's part of the hash / 32."""
        return self.vocab_size + 2 + self.scrambles.index(scramble)

    def note(self, name: str) -> int:
        """Holds the note."""
        return self.vocab_size + 2 + len(self.scrambles) + self.notes.index(name)

    @property
    def output(self) -> int:
        """Start of the words to come; everything before it can be read by layers."""
        return self.vocab_size + 2 + len(self.scrambles) + len(self.notes)

    @property
    def width(self) -> int:
        """d_model."""
        return self.output + self.vocab_size


@dataclass(frozen=True)
class Neuron:
    """relu(sum of weights x features + bias); with ``wraps`` the fractional part x 8 stands for the sum."""

    weights: Mapping[tuple[int, int], float]
    """(distance back, stream dimension) -> weight"""
    bias: float = 0.0
    wraps: bool = False


Wires = list[tuple[Neuron, float]]
"""Neurons and the coefficients with which the component reads them."""


def _at(distance: int, dimensions: Iterable[int], weight: float) -> dict[tuple[int, int], float]:
    return {(distance, dimension): weight for dimension in dimensions}


def _before(within: int, dimensions: Iterable[int], weight: float) -> dict[tuple[int, int], float]:
    return {(distance, d): weight for d in dimensions for distance in range(1, within + 1)}


def _now(strengths: Mapping[int, float]) -> dict[tuple[int, int], float]:
    return {(0, token): strength for token, strength in strengths.items()}


def _graded(condition: c.Graded) -> Wires:
    """One neuron per distance and sign: the attention heads look at one distance each, and relu keeps no sign."""
    wires: Wires = []
    for distance in sorted({distance for distance, _ in condition.strengths}):
        here = {key: value for key, value in condition.strengths.items() if key[0] == distance}
        for sign in (1.0, -1.0):
            weights = {key: abs(value) for key, value in here.items() if value * sign > 0}
            if weights:
                wires.append((Neuron(weights), sign))
    return wires


def _conjunction(condition: c.Conjunction) -> Wires:
    orders = ((condition.left, condition.right), (condition.right, condition.left))
    return [
        (Neuron(_at(0, now, c.BIG) | _before(condition.within, earlier, condition.strength), -c.BIG), 1.0)
        for now, earlier in orders
    ]


def _scramble(condition: c.Scramble, stream: Stream) -> Neuron:
    weights = {
        (distance, token): value / c.HASH_STEPS
        for distance, table in enumerate(condition.tables)
        for token, value in enumerate(table)
    }
    weights[0, stream.hash(condition)] = 1.0
    quiet = c.HASH_STEPS - condition.levels - 1
    return Neuron(weights, -quiet / 4, wraps=True)


def wires(condition: c.Condition, stream: Stream) -> Wires:
    """Neurons that make up a condition."""
    match condition:
        case c.Graded():
            return _graded(condition)
        case c.Conjunction():
            return _conjunction(condition)
        case _:
            return [(_single(condition, stream), 1.0)]


def _single(condition: c.Condition, stream: Stream) -> Neuron:
    """The neuron of a condition that needs only one."""
    match condition:
        case c.Bigram(firsts, seconds, strength):
            return Neuron(_at(0, seconds, strength) | _at(1, firsts, strength), -strength)
        case c.Gate(strengths, blockers, within):
            return Neuron(_now(strengths) | _before(within, blockers, -c.BIG))
        case c.FirstPosition(strength):
            return Neuron({(0, stream.first): strength})
        case c.After(start):
            return Neuron({(0, stream.position): 1.0}, -start / 8)
        case c.Before(wanted, end):
            return Neuron(_at(0, wanted, c.BIG) | {(0, stream.position): -1.0}, end / 8 - c.BIG)
        case c.Constant(strength):
            return Neuron({}, strength)
        case c.Impossible(one, other):
            return Neuron({(0, one): 1.0, (0, other): 1.0}, -1.0)
        case c.Scramble():
            return _scramble(condition, stream)
        case c.Echo(note, distance):
            return Neuron({(distance, stream.note(note.name)): 1.0})
        case c.Noted(wanted, note):
            return Neuron(_at(0, wanted, c.BIG) | {(0, stream.note(note.name)): 1.0}, -c.BIG)
        case c.Inhibited(strengths, note, factor):
            return Neuron(_now(strengths) | {(0, stream.note(note.name)): -factor})
        case _:
            raise AssertionError(f"no wiring for {type(condition).__name__}")
