"""Minimal sufficient context: how much of what stands before a firing is enough for it, and which tokens of that."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from spd_tools.experiments.contrasts import mean_of, said
from spd_tools.experiments.places import Places
from spd_tools.experiments.records import Request, Response, Result
from spd_tools.experiments.retention import Retention, random_sets, shortest_suffixes, smallest_sets
from spd_tools.experiments.sites import sites
from spd_tools.experiments.statistics import ROUNDING, sign_flip_test
from spd_tools.experiments.subject import Subject
from spd_tools.store.records import Record
from spd_tools.wording import plural


class MinimalContextRequest(Request):
    """How much context does a firing need?"""

    experiment: Literal["minimal_context"] = "minimal_context"
    places: list[str] = Field(
        default_factory=list,
        max_length=64,
        description="texts with «» around the token where it fires, or row:ROW:POSITION; empty: random firings",
    )
    n_contexts: int = Field(default=12, ge=2, le=256, description="random firings, where no places are given")
    share: float = Field(default=0.8, gt=0, le=1, description="of the response that the context must keep")
    max_length: int = Field(default=16, ge=1, le=256, description="longest context tried, in tokens")
    n_draws: int = Field(default=8, ge=2, le=64, description="random fillings of the rest, over which is averaged")
    response: Response = Field(default="ranking", description="what is measured")


class MinimalPlace(Record):
    """One firing and the context that it needs."""

    place: str
    """ "row:ROW:POSITION" or the text."""
    response: float
    """Unchanged."""
    length: int | None
    """Tokens of the shortest context up to the firing one that keeps the share; 0: none; None: none so short does."""
    offsets: list[int]
    """Of the smallest set of tokens found inside it, ascending; the whole longest context where ``length`` is None."""
    token_ids: list[int]
    """Along ``offsets``."""
    token_texts: list[str | None]
    kept: float
    """Share of the response that this set keeps in fillings that had no part in finding it."""
    kept_by_others: float
    """The same for as many random other tokens of the context."""
    context: list[int]
    """The tokens from the farthest of the set (or of the longest context tried) to the firing one."""
    context_texts: list[str | None]


class NeededToken(Record):
    """A token that smallest sets hold."""

    offset: int
    token_id: int
    text: str | None
    n: int
    """Places whose set holds it there."""


class MinimalContextResult(Result):
    """Per place the shortest sufficient context and the smallest sufficient set of tokens in it.

    A share is response over unchanged response, at least 0 and at most 1, averaged over fillings. ``effect``: mean
    share that the sets keep, in new fillings; ``control``: that as many other tokens of the same contexts keep. Every
    place counts, those without a sufficient context with the longest one tried.
    """

    request: MinimalContextRequest
    lengths: dict[int, int]
    """Length -> places; those without a sufficient context are in none."""
    n_longer: int
    """Places for which no context up to the longest one tried was enough."""
    offsets: dict[int, int]
    """Offset -> places whose smallest set has it."""
    tokens: list[NeededToken]
    """The commonest of them first."""
    places: list[MinimalPlace]


@dataclass(frozen=True)
class _Found:
    length: NDArray[np.int64]
    """[places] -1 where none is enough."""
    kept: NDArray[np.bool_]
    """[places, longest + 1] steps back -> whether the token is in the set."""
    share: NDArray[np.float64]
    """[places]"""
    others: NDArray[np.float64]
    """[places]"""


def minimal_context(subject: Subject, request: MinimalContextRequest) -> MinimalContextResult:
    """Everything before a suffix of the context is replaced by random tokens of the corpus; then tokens inside it.

    The suffix is the shortest that keeps the share; out of it the token that matters least is replaced too, as long as
    the share is kept (greedy backward elimination: the set is minimal, yet there may be a smaller one).

    Raises:
        SpdToolsError: for an unknown component, places that cannot be read, a component that never fired, and places
            without a response.
    """
    subject.harvest.keys.flat(request.key)
    places = _places(subject, request)
    retention = Retention.of(subject, request.key, request.response, places, drop_silent=not request.places)
    found = _find(subject, request, retention)
    lines = [_line(subject, retention, found, at) for at in range(len(retention.places))]
    difference = found.share - found.others
    difference[np.abs(difference) <= ROUNDING] = 0
    effect = mean_of(found.share, subject.rng(request, "effect"))
    control = mean_of(found.others, subject.rng(request, "control"))
    p_value = sign_flip_test(difference, subject.rng(request, "test"))
    lengths = Counter(line.length for line in lines if line.length is not None)
    offsets = Counter(offset for line in lines for offset in line.offsets)
    n_places = plural(len(lines), "place")
    given = f"{n_places} that {'was' if len(lines) == 1 else 'were'} given"
    where = given if request.places else f"{plural(len(lines), 'random firing')} of {request.key}"
    enough = [line.length for line in lines if line.length is not None]
    median = f"median length {np.median(enough):g}; " if enough else ""
    common = ", ".join(f"{offset} ({n})" for offset, n in offsets.most_common(5)) or "none"
    return MinimalContextResult(
        **subject.identity(request),
        kind="counterfactual",
        population=f"{where}, other tokens replaced by random ones of the corpus",
        n=len(lines),
        effect=effect,
        control=control,
        p_value=p_value,
        summary=f"To keep {request.share:.0%} of the {request.response} response, a context is enough for "
        f"{len(enough)} of {n_places} ({median}max_length {request.max_length} is the longest that was tried). Needed "
        f"offsets: {common}. The needed tokens keep {said(effect)} of it, as many others {said(control)} (p = "
        f"{p_value:.2g}). Blockers that are absent here do not show.",
        request=request,
        lengths=dict(sorted(lengths.items())),
        n_longer=len(lines) - len(enough),
        offsets=dict(sorted(offsets.items(), reverse=True)),
        tokens=_needed(subject, lines),
        places=lines,
    )


def _places(subject: Subject, request: MinimalContextRequest) -> Places:
    if request.places:
        return Places.read(subject, request.places)
    rng = subject.rng(request, "contexts")
    return Places.of_sites(subject, sites(subject, request.key, "firing", request.n_contexts, rng))


def _find(subject: Subject, request: MinimalContextRequest, retention: Retention) -> _Found:
    length = shortest_suffixes(
        retention, request.share, request.max_length, request.n_draws, subject.rng(request, "search")
    )
    reach = np.minimum(request.max_length, retention.available)
    back = np.arange(int(retention.available.max()))
    kept = back < np.where(length < 0, reach, length)[:, None]
    enough = np.flatnonzero(length >= 0)
    kept[enough] = smallest_sets(
        retention, kept[enough], enough, request.share, request.n_draws, subject.rng(request, "smallest")
    )
    rng = subject.rng(request, "check")
    every = np.arange(len(length))
    share = retention.share(every, kept, request.n_draws, rng).mean(1)
    sets = random_sets(retention, kept, request.n_draws, subject.rng(request, "others"))
    others = retention.share(np.repeat(every, request.n_draws), sets, 1, rng).reshape(len(every), -1).mean(1)
    return _Found(length, kept, share, others)


def _line(subject: Subject, retention: Retention, found: _Found, at: int) -> MinimalPlace:
    tokens, position = retention.places.tokens[at], int(retention.places.position[at])
    back = np.flatnonzero(found.kept[at])[::-1]
    ids = tokens[position - back].tolist()
    context = tokens[position - int(back.max(initial=0)) : position + 1].tolist()
    return MinimalPlace(
        place=retention.places.name[at],
        response=float(retention.unchanged[at]),
        length=None if found.length[at] < 0 else int(found.length[at]),
        offsets=(-back).tolist(),
        token_ids=ids,
        token_texts=subject.text_of(ids),
        kept=float(found.share[at]),
        kept_by_others=float(found.others[at]),
        context=context,
        context_texts=subject.text_of(context),
    )


def _needed(subject: Subject, lines: list[MinimalPlace]) -> list[NeededToken]:
    counted = Counter(pair for line in lines for pair in zip(line.offsets, line.token_ids, strict=True))
    ordered = sorted(counted.items(), key=lambda item: (-item[1], -item[0][0], item[0][1]))
    return [
        NeededToken(offset=offset, token_id=token, text=subject.harvest.token_text(token), n=n)
        for (offset, token), n in ordered
    ]
