"""What an interaction runs: two tokens in two places, alone and together, beside tokens like each in its place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.experiments.matching import ControlTokens
from spd_tools.experiments.records import Response
from spd_tools.experiments.sites import Sites
from spd_tools.experiments.statistics import ROUNDING
from spd_tools.experiments.subject import Subject
from spd_tools.experiments.substitution import measure
from spd_tools.keys import ComponentKey

_AS_IS = -1  # in the place of a token: leave what stands there


@dataclass(frozen=True)
class Place:
    """The tokens that are put into one place, and those like them that are put there instead."""

    offset: int
    """From the measured position."""
    tokens: NDArray[np.int64]
    """[T]"""
    group: NDArray[np.int64]
    """[T] which controls are those of each."""
    controls: NDArray[np.int64]
    """[G, K] of each group."""

    @classmethod
    def of(cls, offset: int, tokens: NDArray[np.int64], like: ControlTokens, group: list[int]) -> Place:
        """``group``: of each token, in ``like``."""
        used, local = np.unique(group, return_inverse=True)
        return cls(offset, tokens, local, np.stack([like.tokens[number] for number in used]))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def all(self) -> NDArray[np.int64]:
        """[T + G K] the tokens, then the controls group by group."""
        return np.concatenate([self.tokens, self.controls.reshape(-1)])


@dataclass(frozen=True)
class Grid:
    """Responses and interactions of all pairs in the same n contexts; interactions that are rounding are 0."""

    neither: NDArray[np.float64]
    """[n] f(B)"""
    first: NDArray[np.float64]
    """[F, n] f(B+i)"""
    second: NDArray[np.float64]
    """[S, n] f(B+j)"""
    both: NDArray[np.float64]
    """[F, S, n] f(B+i+j)"""
    interaction: NDArray[np.float64]
    """[F, S, n] f(B+i+j) - f(B+i) - f(B+j) + f(B)"""
    other_second: NDArray[np.float64]
    """[F, G, K, n] the same of the first tokens with control tokens in the second place."""
    other_first: NDArray[np.float64]
    """[G, K, S, n] the same of the second tokens with control tokens in the first place."""


def run_grid(
    subject: Subject, key: ComponentKey, response: Response, found: Sites, first: Place, second: Place
) -> Grid:
    """Put every pair, and every token of one place with the controls of the other, into the same contexts.

    Args:
        subject: whose model runs.
        key: the component.
        response: what is measured.
        found: n contexts.
        first: where the first tokens are put.
        second: where the second ones are.
    """
    n_first, n_second = len(first), len(second)
    ones, twos = first.all, second.all
    blocks = [
        (np.array([_AS_IS]), np.array([_AS_IS])),
        (ones, np.full_like(ones, _AS_IS)),
        (np.full_like(twos, _AS_IS), twos),
        _crossed(first.tokens, twos),
        _crossed(ones[n_first:], second.tokens),
    ]
    put_in = np.stack([np.concatenate(side) for side in zip(*blocks, strict=True)])
    responses = _measured(subject, key, response, found, (first.offset, second.offset), put_in)
    neither, one, two, rows, columns = np.split(responses, np.cumsum([len(block) for block, _ in blocks])[:-1])
    n = len(found)
    rows, columns = rows.reshape(n_first, len(twos), n), columns.reshape(-1, n_second, n)
    largest = ROUNDING * float(np.abs(responses).max())

    def interaction(
        together: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        found = together - a[:, None] - b[None] + neither[0]
        return np.where(np.abs(found) <= largest, 0.0, found)

    in_rows = interaction(rows, one[:n_first], two)
    in_columns = interaction(columns, one[n_first:], two[:n_second])
    return Grid(
        neither=neither[0],
        first=one[:n_first],
        second=two[:n_second],
        both=rows[:, :n_second],
        interaction=in_rows[:, :n_second],
        other_second=in_rows[:, n_second:].reshape(n_first, *second.controls.shape, n),
        other_first=in_columns.reshape(*first.controls.shape, n_second, n),
    )


def _crossed(first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs, row by row."""
    return np.repeat(first, len(second)), np.tile(second, len(first))


def _measured(
    subject: Subject,
    key: ComponentKey,
    response: Response,
    found: Sites,
    offsets: tuple[int, int],
    put_in: NDArray[np.int64],
) -> NDArray[np.float64]:
    """[variants, n] responses of every context with the tokens of each variant put in; put_in: [2, variants]."""
    n, contexts = len(found), found.contexts(subject.harvest)
    which = np.tile(np.arange(n), put_in.shape[1])
    tokens, position = np.repeat(put_in, n, 1), found.position[which]

    def rows(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        made = contexts[which[numbers]]
        for offset, put in zip(offsets, tokens[:, numbers], strict=True):
            changed = np.flatnonzero(put != _AS_IS)
            made[changed, position[numbers[changed]] + offset] = put[changed]
        return made

    return measure(subject, key, response, position, rows).response.reshape(-1, n).astype(np.float64)
