"""Runs with some tokens exchanged: what is put in, and what one component then does at one position of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import Response
from spd_tools.experiments.subject import BATCH_TOKENS, Subject
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest


@dataclass(frozen=True)
class Measured:
    """One component at one position of every run; [runs] until it is reshaped."""

    response: NDArray[np.float32]
    """Ranking or gating activation, or 1 where it fires."""
    fires: NDArray[np.bool_]

    def reshape(self, *shape: int) -> Measured:
        """The same in another shape."""
        return Measured(self.response.reshape(shape), self.fires.reshape(shape))

    def __getitem__(self, where: Any) -> Measured:
        return Measured(self.response[where], self.fires[where])


def measure(
    subject: Subject,
    key: ComponentKey,
    response: Response,
    position: NDArray[np.int64],
    rows: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> Measured:
    """Run rows of tokens and read a component off at one position of each.

    Targets are causal language models: what follows a position does not reach it, so rows are cut off behind theirs,
    and runs with like positions share a batch. Only one batch of rows exists at a time.

    Args:
        subject: whose model runs.
        key: the component.
        response: what is read off.
        position: [runs]
        rows: numbers of runs [k] -> their tokens [k, seq].
    """
    found = Measured(np.empty(len(position), np.float32), np.empty(len(position), np.bool_))
    if not len(position):
        return found
    order = np.argsort(position, kind="stable")
    step = max(1, BATCH_TOKENS // (int(position.max()) + 1))
    for at in range(0, len(order), step):
        numbers = order[at : at + step]
        stop = int(position[numbers[-1]]) + 1
        traces = subject.traces(rows(numbers)[:, :stop], [key])
        places = np.arange(len(numbers)), position[numbers], 0
        found.response[numbers] = traces.response(response)[places]
        found.fires[numbers] = traces.fires[places]
    return found


def exchanged(
    contexts: NDArray[np.int64], which: NDArray[np.int64], at: NDArray[np.int64], to: NDArray[np.int64]
) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """Rows for ``measure`` in which one token is exchanged.

    Args:
        contexts: [contexts, seq]
        which: [runs] number of the context.
        at: [runs] position of the token.
        to: [runs] what is put there.
    """

    def rows(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        made = contexts[which[numbers]]
        made[np.arange(len(made)), at[numbers]] = to[numbers]
        return made

    return rows


class CorpusTokens:
    """Draws tokens as often as they stand in the harvested rows: what an exchanged token is replaced by."""

    def __init__(self, harvest: Harvest) -> None:
        self._counts = np.asarray(harvest.vocabulary("input"), np.int64)
        self._below = np.concatenate([[0], np.cumsum(self._counts)[:-1]])  # of tokens with smaller ids
        self._total = int(self._counts.sum())

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
        """Tokens of the corpus' distribution."""
        return self._at(rng.integers(0, self._total, shape))

    def other_than(self, tokens: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """For each token another one, from the corpus' distribution without it.

        Raises:
            SpdToolsError: when the corpus consists of one token.
        """
        own = self._counts[tokens]
        if tokens.size and int(own.max()) == self._total:
            raise SpdToolsError("The harvest has a single token, so there is none to put in its place; harvest more.")
        drawn = rng.integers(0, self._total - own)
        return self._at(drawn + own * (drawn >= self._below[tokens]))

    def _at(self, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._below, drawn, side="right") - 1


def lead_lengths(harvest: Harvest, row: NDArray[np.int64]) -> NDArray[np.int64]:
    """[rows] how many excluded positions a row begins with (a beginning token): those stay as they are."""
    if harvest.excluded is None:
        return np.zeros(len(row), np.int64)
    return np.logical_and.accumulate(harvest.excluded[row], 1).sum(1)
