"""Position sweep and distance sweep: does a component care where in the row it is, or how far back a cue stands?"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.contrasts import mean_beside, mean_of, said
from spd_tools.experiments.matching import unlike_said
from spd_tools.experiments.population import profile_p_values, scaled_deviations, simultaneous_band
from spd_tools.experiments.position_runs import Moved, cued, moved
from spd_tools.experiments.records import Estimate, Request, Response, Result
from spd_tools.experiments.sites import Sites, sites
from spd_tools.experiments.statistics import bootstrap_mean, profile_test
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
    n_controls: int = Field(
        default=39,
        ge=1,
        le=499,
        description="distance: tokens of like frequency that the cue is ranked among, all in the same contexts; at "
        "least 19",
    )
    response: Response = Field(default="ranking", description="what is measured")


class PositionPoint(Record):
    """The response at one position or distance."""

    at: int
    """Position in the row (from 0), or tokens between cue and measured token plus one."""
    n: int
    """Contexts."""
    response: Estimate
    control: Estimate | None
    """With tokens of like frequency instead of the cue: mean over them, and the limits within which one more such token
    stays at all distances at once (95 %); None where positions are compared with each other."""
    firing_rate: float
    p_value: float | None
    """Rank of the cue among its controls, corrected for all distances (``profile_p_values``); None for positions."""


class PositionResult(Result):
    """The response by position or by distance.

    Absolute: ``effect`` and ``control`` are the mean responses at the positions where it is strongest and weakest,
    which are chosen in one half of the contexts and measured in the other; ``p_value`` is that of a permutation test of
    the whole profile. Distance: is the cue anywhere unlike other tokens of like frequency in the same contexts?
    ``p_value`` is the rank of its profile among theirs; ``effect`` and ``control`` are those at the distance at which
    it stands out, chosen and measured likewise.
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
    p_values = profile_p_values(own.mean(0), controls.mean(0).T).tolist()
    bands = _bands(controls)
    rng = subject.rng(request, "intervals")
    points = [
        PositionPoint(
            at=1 + at,
            n=len(places),
            response=mean_beside(own[:, at], controls[:, at].mean(1), rng),
            control=bands[at],
            firing_rate=float(runs.cue.fires[:, at].mean()),
            p_value=p_values[at],
        )
        for at in range(request.max_distance)
    ]
    chosen = _farthest(own[::2], controls[::2])
    effect = mean_beside(own[1::2, chosen], controls[1::2, chosen].mean(1), subject.rng(request, "main"))
    control, p_value = _bands(controls[1::2])[chosen], min(p_values)
    result = PositionResult(
        **subject.identity(request),
        kind="counterfactual",
        population=f"{len(places)} contexts with {subject.shown(token)} 1 to {request.max_distance} tokens before the "
        "measured one, random tokens of the corpus beside it",
        n=len(places),
        effect=effect,
        control=control,
        p_value=p_value,
        matching=runs.ratio,
        summary="",
        request=request,
        chosen=1 + chosen,
        opposite=None,
        unchanged=_unchanged(subject, request, places),
        points=points,
    )
    return result.model_copy(update={"summary": _distance_summary(subject.shown(token), result)})


def _farthest(own: NDArray[np.float64], controls: NDArray[np.float64]) -> int:
    """Column in which a cue is farthest from its controls, in standard deviations: [contexts, columns (, controls)]."""
    return int(scaled_deviations(own.mean(0), controls.mean(0).T).argmax())


def _bands(controls: NDArray[np.float64]) -> list[Estimate]:
    """Column -> the mean of the controls and what one more stays within; controls: [contexts, columns, controls]."""
    means = controls.mean(0).T
    low, high = simultaneous_band(means)
    return [
        Estimate(value=float(value), low=float(a), high=float(b), n=len(means))
        for value, a, b in zip(means.mean(0), low, high, strict=True)
    ]


def _distance_summary(cue: str, result: PositionResult) -> str:
    matter = [str(point.at) for point in result.points if point.p_value is not None and point.p_value <= 0.05]
    assert result.control is not None
    sentences = [
        f"{cue} matters beyond chance at {'distance ' + ', '.join(matter) if matter else 'no distance'} of 1 to "
        f"{len(result.points)}",
        f"{f'Distance {result.chosen} stands out' if matter else f'The most at {result.chosen}'}: mean "
        f"{result.request.response} response {said(result.effect)}, against {said(result.control)} with "
        f"{result.control.n} tokens of like frequency (p = {result.p_value:.2g})",
        unlike_said(result.matching, "frequency").capitalize(),
        "Farther distances were not tried",
    ]
    return ". ".join(sentence for sentence in sentences if sentence) + "."
