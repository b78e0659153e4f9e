"""Position sweep and distance sweep: does a component care where in the row it is, or how far back a cue stands?"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.contrasts import Arm, mean_of, said, stands_out
from spd_tools.experiments.position_runs import Moved, cued, moved
from spd_tools.experiments.records import Estimate, Request, Response, Result
from spd_tools.experiments.sites import Sites, sites
from spd_tools.experiments.statistics import bootstrap_mean, exchange_test, holm, profile_test
from spd_tools.experiments.subject import Base, Subject
from spd_tools.experiments.substitution import measure
from spd_tools.store.records import Record


class PositionRequest(Request):
    """Does the response depend on the place in the row, or on the distance to a cue?"""

    experiment: Literal["position"] = "position"
    mode: Literal["absolute", "distance"] = Field(
        default="absolute",
        description="absolute: the end of a context is moved through the row; distance: a cue is moved away from it",
    )
    at: Base | None = Field(
        default=None,
        description="positions that contexts end at: where the component fired (default of absolute), where it did "
        "not, or any (default of distance)",
    )
    on: list[int | str] = Field(default_factory=list, max_length=100, description="only positions of these tokens")
    length: int = Field(
        default=4,
        ge=1,
        le=256,
        description="absolute: tokens that are moved, the measured one last; 1 "
        "to have firings at the beginning of a row, which lack tokens before them, among the contexts",
    )
    n_positions: int = Field(default=12, ge=2, le=64, description="absolute: positions tried, evenly over the row")
    cue: int | str | None = Field(default=None, description="distance: the token that is moved")
    max_distance: int = Field(default=6, ge=1, le=64, description="distance: the farthest tried, in tokens")
    n_contexts: int = Field(default=16, ge=2, le=256, description="positions of the harvest")
    n_draws: int = Field(default=4, ge=1, le=64, description="random fillings of what is replaced")
    n_controls: int = Field(default=4, ge=1, le=16, description="distance: tokens of like frequency beside the cue")
    response: Response = Field(default="ranking", description="what is measured")


class PositionPoint(Record):
    """The response at one position or distance."""

    at: int
    """Position in the row (from 0), or tokens between cue and measured token plus one."""
    n: int
    """Contexts."""
    response: Estimate
    control: Estimate | None
    """With tokens of like frequency instead of the cue; None where positions are compared with each other."""
    firing_rate: float
    p_value: float | None
    """Exchange test of the cue against its controls, Holm-corrected over distances; None for positions."""


class PositionResult(Result):
    """The response by position or by distance.

    Absolute: ``effect`` and ``control`` are the mean responses at the positions where it is strongest and weakest,
    which are chosen in one half of the contexts and measured in the other; ``p_value`` is that of a permutation test of
    the whole profile. Distance: those with the cue and with tokens of like frequency at the distance that stands out,
    chosen and measured likewise.
    """

    request: PositionRequest
    chosen: int | None
    """The position of ``effect``, or the distance; None where there are too few contexts to choose one."""
    opposite: int | None
    """The position of ``control``; None for distances."""
    unchanged: Estimate
    """Mean response of the contexts as they are."""
    points: list[PositionPoint]


def position(subject: Subject, request: PositionRequest) -> PositionResult:
    """Responses with the end of a context at other positions of a row, or with a cue at several distances.

    Raises:
        SpdToolsError: for an unknown component or token, contexts that the harvest has not, and a distance sweep
            without a cue.
    """
    subject.harvest.keys.flat(request.key)
    if (request.mode == "distance") != (request.cue is not None):
        raise SpdToolsError(
            "A distance sweep needs the cue that is moved; name a token."
            if request.cue is None
            else "A sweep over absolute positions moves no cue; leave it out, or choose the mode distance."
        )
    return _absolute(subject, request) if request.cue is None else _distance(subject, request, request.cue)


def _contexts(subject: Subject, request: PositionRequest, default: Base, room: int) -> Sites:
    tokens = [subject.token_of(token) for token in request.on]
    rng = subject.rng(request, "contexts")
    return sites(subject, request.key, request.at or default, request.n_contexts, rng, token=tokens, first=room)


def _unchanged(subject: Subject, request: PositionRequest, places: Sites) -> Estimate:
    contexts = places.contexts(subject.harvest)
    found = measure(subject, request.key, request.response, places.position, lambda numbers: contexts[numbers])
    return mean_of(found.response, subject.rng(request, "unchanged"))


# --- positions ------------------------------------------------------------------------------------------------------


def _absolute(subject: Subject, request: PositionRequest) -> PositionResult:
    places = _whole_contexts(subject, request)
    longest = min(subject.harvest.seq_len, subject.decomposition.max_seq_len)
    positions = np.unique(np.linspace(0, longest - 1, request.n_positions).round().astype(np.int64))
    runs = moved(
        subject,
        request.key,
        request.response,
        places,
        request.length,
        positions,
        request.n_draws,
        subject.rng(request, "fillings"),
    )
    rng = subject.rng(request, "intervals")
    points: list[PositionPoint] = []
    for at, response, firing in zip(positions.tolist(), runs.response.T, runs.firing.T, strict=True):
        known = ~np.isnan(response)
        if known.any():
            rate = float(firing[known].mean())
            estimate = mean_of(response[known], rng)
            points.append(
                PositionPoint(at=at, n=estimate.n, response=estimate, control=None, firing_rate=rate, p_value=None)
            )
    p_value = profile_test(runs.response, subject.rng(request, "test"))
    strong, weak = _extremes(runs)
    rng = subject.rng(request, "main")
    measured = runs.response[1::2]
    effect, control = (None if at is None else _mean_known(measured[:, at], rng) for at in (strong, weak))
    chosen, opposite = (None if at is None else int(positions[at]) for at in (strong, weak))
    return PositionResult(
        **subject.identity(request),
        kind="counterfactual",
        population=f"the last up to {request.length} tokens of {len(places)} contexts of {request.key} at "
        f"{len(points)} positions, random tokens of the corpus before them",
        n=len(places),
        effect=effect,
        control=control,
        p_value=p_value,
        summary=f"The mean {request.response} response {'depends' if p_value <= 0.05 else 'does not depend'} on the "
        f"position beyond chance (p = {p_value:.2g}): {said(effect)} at position {chosen} and {said(control)} at "
        f"{opposite}, strongest and weakest in the other half of the contexts. Other contexts may do otherwise.",
        request=request,
        chosen=chosen,
        opposite=opposite,
        unchanged=_unchanged(subject, request, places),
        points=points,
    )


def _whole_contexts(subject: Subject, request: PositionRequest) -> Sites:
    """Contexts with all tokens that are to be moved; shorter ones only where there are no others.

    A short context fits in at the beginning of a row, where longer ones do not, and it was chosen for firing there:
    compared with each other, such positions would differ even if the component did not care.
    """
    try:
        return _contexts(subject, request, "firing", request.length - 1)
    except SpdToolsError:
        return _contexts(subject, request, "firing", 0)


def _extremes(runs: Moved) -> tuple[int | None, int | None]:
    """Columns with the largest and smallest mean in every other context; of equal ones the first."""
    half = runs.response[::2]
    usable = np.flatnonzero((~np.isnan(half)).any(0))
    if not len(usable):
        return None, None
    means = np.nanmean(half[:, usable], 0)
    return int(usable[means.argmax()]), int(usable[means.argmin()])


def _mean_known(values: NDArray[np.float64], rng: np.random.Generator) -> Estimate | None:
    return bootstrap_mean(values[~np.isnan(values)], rng)


# --- distances ------------------------------------------------------------------------------------------------------


def _distance(subject: Subject, request: PositionRequest, cue: int | str) -> PositionResult:
    token = subject.token_of(cue)
    places = _contexts(subject, request, "random", request.max_distance)
    runs = cued(
        subject,
        request.key,
        request.response,
        places,
        token,
        request.max_distance,
        request.n_controls,
        request.n_draws,
        subject.rng(request, "fillings"),
    )
    own = runs.cue.response.mean(2, dtype=np.float64)
    controls = runs.control.response.mean(3, dtype=np.float64)
    beside = controls.mean(2)
    distances = range(request.max_distance)
    rng = subject.rng(request, "tests")
    p_values = holm([exchange_test(own[:, at], controls[:, at], rng) for at in distances])
    rng = subject.rng(request, "intervals")
    points = [
        PositionPoint(
            at=1 + at,
            n=len(places),
            response=mean_of(own[:, at], rng),
            control=mean_of(beside[:, at], rng),
            firing_rate=float(runs.cue.fires[:, at].mean()),
            p_value=p_values[at],
        )
        for at in distances
    ]
    numbers = np.arange(len(places))
    main = stands_out([Arm(numbers, own[:, at], beside[:, at]) for at in distances], subject.rng(request, "main"))
    matter = [str(point.at) for point in points if point.p_value is not None and point.p_value <= 0.05]
    return PositionResult(
        **subject.identity(request),
        kind="counterfactual",
        population=f"{len(places)} contexts with {subject.shown(token)} 1 to {request.max_distance} tokens before the "
        "measured one, random tokens of the corpus beside it",
        n=len(places),
        effect=main.effect,
        control=main.control,
        p_value=p_values[main.arm],
        summary=f"{subject.shown(token)} matters beyond chance at "
        f"{'distance ' + ', '.join(matter) if matter else 'no distance'} of 1 to {request.max_distance}. "
        f"{f'Distance {1 + main.arm} stands out' if matter else f'The most at {1 + main.arm}'}: mean "
        f"{request.response} response {said(main.effect)}, against {said(main.control)} with tokens of like frequency "
        f"(p = {p_values[main.arm]:.2g}). Farther distances were not tried.",
        request=request,
        chosen=1 + main.arm,
        opposite=None,
        unchanged=_unchanged(subject, request, places),
        points=points,
    )
