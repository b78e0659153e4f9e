"""The slow, obvious definition of everything a harvest counts: loops, dicts and exact integers.

Written from the definitions, not from the product: nothing of spd_tools is used here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1
MASS_UNIT = 2**33
"""Output mass is counted in units of 2**-33."""


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def sampling_key(seed: int, row: int, position: int, component: int) -> int:
    state = mix(seed + GOLDEN & MASK)
    for number in (row, position, component):
        state = mix(state + number + GOLDEN & MASK)
    return state


def is_logged(seed: int, row: int, share: float) -> bool:
    return share >= 1 or mix(mix(seed ^ 0x6C6F67) + row + GOLDEN & MASK) < share * 2**64


def histogram_bin(value: float) -> int:
    """Sign x 8 bins per octave between 2**-32 and 2**32, one bin below and one above."""
    magnitude = abs(value)
    if magnitude < 2.0**-32:
        bin_ = 0
    elif magnitude >= 2.0**32:
        bin_ = 1 + 8 * 64
    else:
        mantissa, exponent = math.frexp(magnitude)  # mantissa in [1/2, 1)
        bin_ = 1 + 8 * (exponent - 1 + 32) + math.floor((2 * mantissa - 1) * 8)
    return -1 - bin_ if math.copysign(1, value) < 0 else bin_


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a harvest sees."""

    tokens: np.ndarray
    """[rows, seq]"""
    lengths: list[int]
    excluded: np.ndarray | None
    """[rows, seq] bool"""
    activations: dict[str, np.ndarray]
    """kind -> [rows, seq, C] float32"""
    probabilities: np.ndarray
    """[rows, seq, V] float32"""
    gating: str
    ranking: str
    threshold: float = 0.0
    p_min: float = 1e-3
    seed: int = 0
    n_uniform: int = 100
    n_top: int = 100
    window: int = 20
    log_share: float = 1.0

    @property
    def n_components(self) -> int:
        return self.activations[self.gating].shape[2]

    @property
    def vocab_size(self) -> int:
        return self.probabilities.shape[2]

    def counts(self, row: int, position: int) -> bool:
        """Whether the position is harvested."""
        return position < self.lengths[row] and not (self.excluded is not None and self.excluded[row, position])

    def positions(self) -> list[tuple[int, int]]:
        return [(r, p) for r in range(len(self.tokens)) for p in range(self.tokens.shape[1]) if self.counts(r, p)]

    def fires(self, row: int, position: int, component: int) -> bool:
        return bool(self.activations[self.gating][row, position, component] > np.float32(self.threshold))


@dataclass(frozen=True)
class RefExample:
    row: int
    position: int
    start: int
    activations: dict[str, list[float | None]]


@dataclass
class Reference:
    """All accumulators. Keyed by flat component index; only what was seen has an entry in the dicts."""

    n_tokens: int = 0
    n: list[int] = field(default_factory=list)
    pairs: dict[tuple[int, int], int] = field(default_factory=dict)
    """(i, j), i < j -> n_ij"""
    input_counts: list[dict[int, int]] = field(default_factory=list)
    """c -> {v: I_cv}"""
    vocabulary_input: dict[int, int] = field(default_factory=dict)
    output_units: list[dict[int, int]] = field(default_factory=list)
    """c -> {v: O_cv in units of 2**-33}"""
    vocabulary_output_units: dict[int, int] = field(default_factory=dict)
    dropped_units: list[int] = field(default_factory=list)
    sums: dict[str, list[float]] = field(default_factory=dict)
    firing_sums: dict[str, list[float]] = field(default_factory=dict)
    abs_firing_sums: dict[str, list[float]] = field(default_factory=dict)
    histogram: list[dict[int, int]] = field(default_factory=list)
    uniform: list[list[RefExample]] = field(default_factory=list)
    top: list[list[RefExample]] = field(default_factory=list)
    logged_rows: list[int] = field(default_factory=list)
    log: list[list[tuple[int, int]]] = field(default_factory=list)
    """c -> [(row, position)] ascending"""

    @property
    def n_firings(self) -> int:
        return sum(self.n)

    def n_ij(self, i: int, j: int) -> int:
        return self.n[i] if i == j else self.pairs.get((min(i, j), max(i, j)), 0)


def harvest(given: Input) -> Reference:
    """Count everything."""
    found = Reference()
    n_components = given.n_components
    positions = given.positions()
    firings: list[list[tuple[int, int]]] = [[] for _ in range(n_components)]
    found.n_tokens = len(positions)
    found.input_counts = [{} for _ in range(n_components)]
    found.output_units = [{} for _ in range(n_components)]
    found.dropped_units = [0] * n_components
    for row, position in positions:
        fired = [c for c in range(n_components) if given.fires(row, position, c)]
        token = int(given.tokens[row, position])
        units = output_units(given.probabilities[row, position], given.p_min)
        dropped = max(0, MASS_UNIT - sum(units.values()))
        _add(found.vocabulary_input, token, 1)
        for v, q in units.items():
            _add(found.vocabulary_output_units, v, q)
        for c in fired:
            firings[c].append((row, position))
            _add(found.input_counts[c], token, 1)
            found.dropped_units[c] += dropped
            for v, q in units.items():
                _add(found.output_units[c], v, q)
        for at, i in enumerate(fired):
            for j in fired[at + 1 :]:
                _add(found.pairs, (i, j), 1)
    found.n = [len(of_component) for of_component in firings]
    _sum_activations(given, found, positions, firings)
    _choose_examples(given, found, firings)
    found.logged_rows = [row for row in range(len(given.tokens)) if is_logged(given.seed, row, given.log_share)]
    logged = set(found.logged_rows)
    found.log = [[(row, p) for row, p in of_component if row in logged] for of_component in firings]
    return found


def output_units(probabilities: np.ndarray, p_min: float) -> dict[int, int]:
    """{v: q_v in units of 2**-33} of one position; p_min is compared as a float32."""
    units: dict[int, int] = {}
    for v, p in enumerate(probabilities):
        if p >= np.float32(p_min):
            q = math.floor(float(p) * MASS_UNIT + 0.5)
            if q:
                units[v] = q
    return units


def _sum_activations(
    given: Input, found: Reference, positions: list[tuple[int, int]], firings: list[list[tuple[int, int]]]
) -> None:
    for kind, dense in given.activations.items():
        values = [[float(dense[r, p, c]) for r, p in positions] for c in range(given.n_components)]
        at_firings = [[float(dense[r, p, c]) for r, p in firings[c]] for c in range(given.n_components)]
        found.sums[kind] = [math.fsum(of_component) for of_component in values]
        found.firing_sums[kind] = [math.fsum(of_component) for of_component in at_firings]
        found.abs_firing_sums[kind] = [math.fsum(map(abs, of_component)) for of_component in at_firings]


def _choose_examples(given: Input, found: Reference, firings: list[list[tuple[int, int]]]) -> None:
    ranking = given.activations[given.ranking]
    for c, of_component in enumerate(firings):
        histogram: dict[int, int] = {}
        for row, position in of_component:
            _add(histogram, histogram_bin(float(ranking[row, position, c])), 1)
        found.histogram.append(histogram)
        keyed = [
            (sampling_key(given.seed, row, p, c), abs(float(ranking[row, p, c])), row, p) for row, p in of_component
        ]
        uniform = sorted(keyed)[: given.n_uniform]
        top = sorted(keyed, key=lambda firing: (-firing[1], firing[0]))[: given.n_top]
        found.uniform.append([example(given, c, row, p) for _, _, row, p in uniform])
        found.top.append([example(given, c, row, p) for _, _, row, p in top])


def example(given: Input, component: int, row: int, position: int) -> RefExample:
    """The window of one firing, cut at the ends of the row; excluded positions have no activation."""
    start = max(0, position - given.window)
    end = min(given.lengths[row], position + given.window + 1)
    activations = {
        kind: [float(dense[row, p, component]) if given.counts(row, p) else None for p in range(start, end)]
        for kind, dense in given.activations.items()
    }
    return RefExample(row, position, start, activations)


def _add(counts: dict[Any, int], key: Any, number: int) -> None:
    counts[key] = counts.get(key, 0) + number
