"""Occlusion: the tokens of a context are replaced one at a time; which of them does the component need, or fear?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.contrasts import Arm, Standout, mean_of, said, stands_out
from spd_tools.experiments.records import Estimate, Request, Response, Result
from spd_tools.experiments.sites import Sites, sites
from spd_tools.experiments.statistics import exchange_test, holm
from spd_tools.experiments.subject import Base, Subject
from spd_tools.experiments.substitution import CorpusTokens, Measured, exchanged, lead_lengths, measure
from spd_tools.store.records import Record
from spd_tools.wording import plural

_SHOWN = 5  # tokens listed per offset


class OcclusionRequest(Request):
    """Which context tokens matter, counted back from the measured position?

    A component fires for some reason: at positions where it fired, replacing some token almost always lowers its
    response. What is found there describes where the cause lies, whatever the label is; it is no test of a label.
    """

    experiment: Literal["occlusion"] = "occlusion"
    at: Base = Field(
        default="firing",
        description="positions where the component fired; where it did not (that finds what blocks it); or any",
    )
    on: list[int | str] = Field(
        default_factory=list, max_length=100, description="only positions of these tokens; silent positions need them"
    )
    window: int = Field(default=8, ge=1, le=256, description="offsets 0, -1, ..., 1 - window are tried")
    n_contexts: int = Field(default=32, ge=2, le=512, description="positions of the harvest")
    n_draws: int = Field(default=8, ge=1, le=64, description="tokens that are put in, one after the other")
    response: Response = Field(default="ranking", description="what is measured")


class OccludedToken(Record):
    """A token whose replacement changed something."""

    token_id: int
    text: str | None
    n: int
    """Contexts with this token at this offset."""
    change: float
    """Mean over those of the change of the response."""


class OccludedOffset(Record):
    """What replacing the token at one offset does."""

    offset: int
    n: int
    """Contexts that reach so far back."""
    response: Estimate
    """Mean over contexts with the token replaced."""
    change: Estimate
    """Mean over contexts of that minus the response of the unchanged context."""
    retained: float | None
    """Mean response over that of the same contexts unchanged; None where that is 0."""
    firing_rate: float
    p_value: float
    """Exchange test of the token that stood there among those put in, Holm-corrected over offsets."""
    tokens: list[OccludedToken]
    """The tokens that stood there and whose replacement changed most."""


class OcclusionResult(Result):
    """One line per offset, from the measured token back.

    Responses at firing positions count in the direction that they have unchanged, so that firings of either sign add
    up. ``effect`` is the mean change of the response by replacing the token at the offset that stands out (chosen in
    one half of the contexts, measured in the other), ``control`` that by replacing a token before the window; in
    contexts that begin within the window there is none to replace, and that change is 0. ``p_value`` is that of the
    offset's line.
    """

    request: OcclusionRequest
    chosen: int
    """The offset that stands out."""
    unchanged: Estimate
    """Mean response of the contexts as they are."""
    unchanged_firing_rate: float
    offsets: list[OccludedOffset]


@dataclass(frozen=True)
class _Runs:
    places: Sites
    contexts: NDArray[np.int64]
    """[contexts, seq]"""
    unchanged: Measured
    """[contexts]"""
    far: NDArray[np.float32]
    """[contexts] mean over draws with a token before the window replaced; unchanged where there is none."""
    numbers: list[NDArray[np.int64]]
    """Steps back -> numbers of the contexts that reach so far."""
    near: list[Measured]
    """Steps back -> [those contexts, draws]."""


def occlusion(subject: Subject, request: OcclusionRequest) -> OcclusionResult:
    """Responses with one context token at a time replaced by others of the corpus' distribution, never the same.

    Raises:
        SpdToolsError: for an unknown component or token, silent positions on no token, and positions that the harvest
            has not.
    """
    subject.harvest.keys.flat(request.key)
    if request.at == "silent" and not request.on:
        raise SpdToolsError(
            "Occlusion at silent positions needs the tokens on which the component should have fired; name them (on)."
        )
    places = sites(
        subject,
        request.key,
        request.at,
        request.n_contexts,
        subject.rng(request, "contexts"),
        token=[subject.token_of(token) for token in request.on],
    )
    runs = _run(subject, request, places)
    offsets = _lines(subject, request, runs)
    before = runs.unchanged.response
    arms = [
        Arm(numbers, near.response.mean(1) - before[numbers], runs.far[numbers] - before[numbers])
        for numbers, near in zip(runs.numbers, runs.near, strict=True)
    ]
    main = stands_out(arms, subject.rng(request, "main"))
    unchanged = mean_of(runs.unchanged.response, subject.rng(request, "unchanged"))
    what = {"firing": "where {} fired", "silent": "where {} did not fire", "random": "of the harvest"}[request.at]
    on = f" on {_listed([subject.shown(token) for token in request.on])}" if request.on else ""
    return OcclusionResult(
        **subject.identity(request),
        kind="counterfactual",
        population=f"{plural(len(places), 'position')}{on} {what.format(request.key)}, one token replaced at a time",
        n=len(places),
        effect=main.effect,
        control=main.control,
        p_value=offsets[main.arm].p_value,
        summary=_summary(request, offsets, unchanged, main),
        request=request,
        chosen=offsets[main.arm].offset,
        unchanged=unchanged,
        unchanged_firing_rate=float(runs.unchanged.fires.mean()),
        offsets=offsets,
    )


def _run(subject: Subject, request: OcclusionRequest, places: Sites) -> _Runs:
    n, draws = len(places), request.n_draws
    contexts, lead = places.contexts(subject.harvest), lead_lengths(subject.harvest, places.row)
    reach = np.minimum(places.position - lead + 1, request.window)  # at least 1: the measured position is counted
    numbers = [np.flatnonzero(reach > back) for back in range(int(reach.max()))]
    n_far = places.position - lead + 1 - request.window
    with_far = np.flatnonzero(n_far > 0)
    rng = subject.rng(request, "far")
    far_at = lead[with_far, None] + rng.integers(0, n_far[with_far, None], (len(with_far), draws))
    which = np.concatenate([np.arange(n), np.repeat(with_far, draws), *(np.repeat(some, draws) for some in numbers)])
    near_at = [np.repeat(places.position[some] - back, draws) for back, some in enumerate(numbers)]
    at = np.concatenate([places.position, far_at.reshape(-1), *near_at])
    to = contexts[which, at]
    to[n:] = CorpusTokens(subject.harvest).other_than(to[n:], subject.rng(request, "tokens put in"))
    found = measure(subject, request.key, request.response, places.position[which], exchanged(contexts, which, at, to))
    if request.at == "firing":
        direction = np.where(found.response[:n] < 0, -1, 1).astype(np.float32)
        found = Measured(found.response * direction[which], found.fires)
    far = found.response[:n].copy()
    stop = n + far_at.size
    far[with_far] = found.response[n:stop].reshape(-1, draws).mean(1)
    near: list[Measured] = []
    for some in numbers:
        start, stop = stop, stop + len(some) * draws
        near.append(found[start:stop].reshape(-1, draws))
    return _Runs(places, contexts, found[:n], far, numbers, near)


def _lines(subject: Subject, request: OcclusionRequest, runs: _Runs) -> list[OccludedOffset]:
    rng = subject.rng(request, "tests")
    unchanged = [runs.unchanged.response[some] for some in runs.numbers]
    p_values = holm(
        [exchange_test(before, after.response, rng) for before, after in zip(unchanged, runs.near, strict=True)]
    )
    rng = subject.rng(request, "intervals")
    lines: list[OccludedOffset] = []
    for back, (some, before, near, p_value) in enumerate(
        zip(runs.numbers, unchanged, runs.near, p_values, strict=True)
    ):
        after = near.response.mean(1, dtype=np.float64)
        stood = runs.contexts[some, runs.places.position[some] - back]
        base = float(before.mean(dtype=np.float64))
        lines.append(
            OccludedOffset(
                offset=-back,
                n=len(some),
                response=mean_of(after, rng),
                change=mean_of(after - before, rng),
                retained=float(after.mean()) / base if base else None,
                firing_rate=float(near.fires.mean()),
                p_value=p_value,
                tokens=_most_changed(subject, stood, after - before),
            )
        )
    return lines


def _most_changed(subject: Subject, stood: NDArray[np.int64], change: NDArray[np.float64]) -> list[OccludedToken]:
    token, which, n = np.unique(stood, return_inverse=True, return_counts=True)
    mean = np.bincount(which, change) / n
    order = np.argsort(-np.abs(mean) * n, kind="stable")[:_SHOWN]
    return [
        OccludedToken(
            token_id=int(token[at]),
            text=subject.harvest.token_text(int(token[at])),
            n=int(n[at]),
            change=float(mean[at]),
        )
        for at in order
        if mean[at]
    ]


def _summary(request: OcclusionRequest, offsets: list[OccludedOffset], unchanged: Estimate, main: Standout) -> str:
    matter = [str(line.offset) for line in offsets if line.p_value <= 0.05]
    line = offsets[main.arm]
    found = f"Replacing the token at offset {' or '.join(matter)}" if matter else "Replacing no single token"
    most = f"{line.offset} stands out" if matter else f"The most at {line.offset}"
    firings = " Where it fires some token always matters: this tests no label." if request.at == "firing" else ""
    return (
        f"{found} changes the mean {request.response} response of {said(unchanged)} beyond chance (offsets 0 to "
        f"{offsets[-1].offset} tried). {most}: replacing it changes the response by "
        f"{said(main.effect)}, replacing a token farther away by {said(main.control)} (p = {line.p_value:.2g}). What "
        f"two tokens can each do alone, replacing one of them does not show.{firings}"
    )


def _listed(shown: list[str]) -> str:
    return " or ".join(shown) if len(shown) <= _SHOWN else f"one of {len(shown)} tokens ({', '.join(shown[:3])}, ...)"
