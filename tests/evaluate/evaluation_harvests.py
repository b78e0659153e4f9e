"""Harvests that trials are made from, and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from reference import Input, Reference
from reference_store import KINDS, write_reference_store

from spd_tools.decompositions.planted import PlantedDecomposition
from spd_tools.evaluate.splits import Split
from spd_tools.store.harvest import Harvest

CONTEXT = 3
"""Of the made-up harvest's split."""
VOCABULARY = 40
RATES = [0.004, 0.006, 0.01, 0.014, 0.015, 0.016, 0.017, 0.018, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 0.0]
"""Densities of the made-up harvest's components."""


@dataclass(frozen=True)
class MadeUp:
    """A made-up harvest and everything that is known about it."""

    harvest: Harvest
    given: Input
    counted: Reference

    @property
    def split(self) -> Split:
        return Split(self.harvest, CONTEXT)

    def text(self, row: int, position: int) -> tuple[int, ...]:
        """Tokens of the window around a position, the obvious way."""
        end = min(position + CONTEXT + 1, self.given.lengths[row])
        return tuple(self.given.tokens[row, max(0, position - CONTEXT) : end].tolist())


def recurring_rows(rng: np.random.Generator, rows: int, seq: int) -> np.ndarray:
    """[rows, seq] random text, a third of which are passages that come again and again; rows 0 and 1 are equal."""
    tokens = rng.integers(0, VOCABULARY, (rows, seq))
    passages = rng.integers(0, VOCABULARY, (30, 16))
    for row in tokens:
        at = rng.integers(0, seq - 16)
        row[at : at + 16] = passages[rng.integers(30)]
    tokens[1] = tokens[0]
    return tokens.astype(np.uint16)


def write_made_up(
    folder, *, log_share: float = 0.6, rows: int = 500, seq: int = 40, importance: np.ndarray | None = None
) -> MadeUp:
    """Firings do not depend on tokens; every fourth firing of component 1 is one of component 0."""
    rng = np.random.default_rng(5)
    fires = rng.random((rows, seq, len(RATES))) < np.array(RATES)
    fires[..., 1] |= fires[..., 0] & (rng.random((rows, seq)) < 0.5)
    random = np.where(fires, rng.uniform(0.1, 1, fires.shape), 0).astype(np.float32)
    activation = rng.normal(0, 2, fires.shape).astype(np.float32)
    probabilities = np.zeros((rows, seq, VOCABULARY), np.float32)
    probabilities[..., 0] = 1
    given = Input(
        tokens=recurring_rows(rng, rows, seq),
        lengths=rng.integers(seq // 2, seq + 1, rows).tolist(),
        excluded=rng.random((rows, seq)) < 0.05,
        activations=dict(zip(KINDS, (random if importance is None else importance, activation), strict=True)),
        probabilities=probabilities,
        gating=KINDS[0],
        ranking=KINDS[1],
        n_uniform=30,
        n_top=20,
        window=5,
        log_share=log_share,
    )
    counted = write_reference_store(folder, given)
    return MadeUp(Harvest.open(folder), given, counted)


@dataclass(frozen=True)
class Planted:
    """A harvest of the planted decomposition."""

    split: Split
    decomposition: PlantedDecomposition
