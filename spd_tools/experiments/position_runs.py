"""Runs of the position experiment: a context at other places of a row, a cue at other distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.experiments.matching import ControlTokens
from spd_tools.experiments.records import Ratio, Response
from spd_tools.experiments.sites import Sites
from spd_tools.experiments.subject import Subject
from spd_tools.experiments.substitution import CorpusTokens, Measured, lead_lengths, measure
from spd_tools.keys import ComponentKey


@dataclass(frozen=True)
class Moved:
    """Contexts at other positions."""

    response: NDArray[np.float64]
    """[contexts, positions] mean over fillings; NaN where the context does not fit in before the position."""
    firing: NDArray[np.float64]
    """[contexts, positions] share of fillings in which it fires; NaN likewise."""


def moved(
    subject: Subject,
    key: ComponentKey,
    response: Response,
    places: Sites,
    length: int,
    positions: NDArray[np.int64],
    n_draws: int,
    rng: np.random.Generator,
) -> Moved:
    """Move the last tokens of contexts to other positions, with random tokens of the corpus before them.

    Contexts that begin less than ``length`` tokens before their place keep what they have. A filling is the same for
    all positions, as seen from the context: a position farther back only has less of it. Excluded tokens at the
    beginning of a row (a beginning token) stay there.

    Args:
        subject: whose model runs.
        key: the component.
        response: what is measured.
        places: [contexts] where the measured token stands now.
        length: tokens that are moved, the measured one last.
        positions: where it is put.
        n_draws: fillings per context.
        rng: draws them.
    """
    contexts, lead = places.contexts(subject.harvest), lead_lengths(subject.harvest, places.row)
    n, longest = len(places), int(positions.max()) + 1
    kept = np.minimum(length, places.position - lead + 1)
    filling = CorpusTokens(subject.harvest).draw((n, n_draws, longest), rng)
    fits = positions >= (lead + kept - 1)[:, None]
    context, column = (np.repeat(numbers, n_draws) for numbers in np.nonzero(fits))
    draw = np.tile(np.arange(n_draws), len(context) // n_draws)

    def rows(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        made = np.zeros((len(numbers), longest), np.int64)
        for row, number in zip(made, numbers, strict=True):
            at, position, own = context[number], int(positions[column[number]]), int(kept[context[number]])
            place, first = int(places.position[at]), int(lead[at])
            row[:first] = contexts[at, :first]
            fill = position + 1 - own - first
            row[first : first + fill] = filling[at, draw[number], longest - fill :]
            row[position + 1 - own : position + 1] = contexts[at, place + 1 - own : place + 1]
        return made

    found = measure(subject, key, response, positions[column], rows)
    means = np.full((2, n, len(positions)), np.nan)
    means[:, fits] = [
        found.response.reshape(-1, n_draws).mean(1, dtype=np.float64),
        found.fires.reshape(-1, n_draws).mean(1),
    ]
    return Moved(*means)


@dataclass(frozen=True)
class Cued:
    """A cue at several distances before the measured token."""

    cue: Measured
    """[contexts, distances, draws]"""
    control: Measured
    """[contexts, distances, controls, draws]"""
    ratio: Ratio
    """Of the control tokens' frequencies to the cue's."""


def cued(
    subject: Subject,
    key: ComponentKey,
    response: Response,
    places: Sites,
    cue: int,
    max_distance: int,
    n_controls: int,
    n_draws: int,
    rng: np.random.Generator,
) -> Cued:
    """Put a cue 1, 2, ... tokens before places, among random tokens of the corpus, and its controls likewise.

    The ``max_distance`` tokens before the place are replaced, what stands before those is left. Fillings are the same
    for all distances, cue and controls, and the controls are the same tokens in all contexts.

    Args:
        subject: whose model runs.
        key: the component.
        response: what is measured.
        places: [contexts], each with max_distance tokens before it.
        cue: token id.
        max_distance: the farthest.
        n_controls: tokens of like frequency; fewer where the harvest has fewer.
        n_draws: fillings per context.
        rng: draws controls and fillings.

    Raises:
        SpdToolsError: when the harvest has too few tokens for controls.
    """
    contexts, n = places.contexts(subject.harvest), len(places)
    like = ControlTokens.like(subject.harvest, [cue], n_controls, rng)
    filling = CorpusTokens(subject.harvest).draw((n, n_draws, max_distance), rng)
    put_in = np.concatenate([[cue], like.tokens[0]])
    shape = (n, max_distance, len(put_in), n_draws)
    context, back, token, draw = (numbers.reshape(-1) for numbers in np.indices(shape))

    def rows(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        which, one = context[numbers], np.arange(len(numbers))
        made, place = contexts[which], places.position[which]
        for distance in range(1, max_distance + 1):
            made[one, place - distance] = filling[which, draw[numbers], distance - 1]
        made[one, place - 1 - back[numbers]] = put_in[token[numbers]]
        return made

    found = measure(subject, key, response, places.position[context], rows).reshape(*shape)
    return Cued(found[:, :, 0], found[:, :, 1:], like.ratio)
