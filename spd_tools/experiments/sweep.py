"""Substitution sweep: one token of many contexts is replaced by each of a list, and by tokens of like frequency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.contrasts import mean_and_difference, mean_beside, mean_of, said
from spd_tools.experiments.matching import ControlTokens, unlike_said
from spd_tools.experiments.population import central, grouped_control, grouped_test, rank_test, scaled_deviations
from spd_tools.experiments.records import Estimate, Request, Response, Result
from spd_tools.experiments.sites import Sites, sites
from spd_tools.experiments.statistics import holm
from spd_tools.experiments.subject import Base, Subject
from spd_tools.experiments.substitution import Measured, exchanged, measure
from spd_tools.store.records import Record

_LEVEL = 0.05
_MOST_CONTROLS = 999


class SweepRequest(Request):
    """Which of some tokens, at one place relative to the measured position, changes the response?"""

    experiment: Literal["sweep"] = "sweep"
    tokens: list[int | str] = Field(min_length=1, max_length=100, description="candidates: texts of one token, or ids")
    offset: int = Field(default=0, le=0, description="which token is replaced: 0 the measured one, -1 the one before")
    base: Base = Field(
        default="random",
        description="contexts: any positions of the harvest, where the component fired, or where it did not",
    )
    on: int | str | None = Field(default=None, description="only positions of this token (before it is replaced)")
    n_contexts: int = Field(default=16, ge=2, le=512, description="positions of the harvest")
    n_controls: int = Field(
        default=99,
        ge=1,
        le=_MOST_CONTROLS,
        description="tokens of like frequency that candidates are ranked among, all in the same contexts; at least 19, "
        "and 20 per candidate for each to be tested by itself",
    )
    response: Response = Field(default="ranking", description="what is measured")


class SweptToken(Record):
    """What one candidate does."""

    token_id: int
    text: str | None
    count: int
    """How often it stands in the harvested rows."""
    response: Estimate
    """Mean over contexts with the candidate put in; the interval leaves out what contexts do to the controls too."""
    control: Estimate
    """The same with tokens of like frequency put in: mean over them, and the limits within which 95 % of them lie."""
    difference: Estimate
    """Mean over contexts of response minus the controls' mean there."""
    firing_rate: float
    control_firing_rate: float
    p_value: float
    """Rank of the candidate among its control tokens, two-sided, Holm-corrected over the candidates."""


class SweepResult(Result):
    """One line per candidate, in the order asked for.

    The unit is the token: is a candidate unlike other tokens of like frequency in the same contexts? ``effect``,
    ``control`` and ``p_value`` are about the candidates as a set: their mean response, the limits within which 95 % of
    the means of as many control tokens lie, and a permutation test of which of the tokens are the candidates. Of a
    single candidate that is its rank among the controls. Candidates of other frequencies have controls of their own.
    """

    request: SweepRequest
    chosen: int
    """Token id of the candidate that differs most from its controls, in standard deviations of them and it."""
    unchanged: Estimate
    """Mean response in the same contexts as they are."""
    tokens: list[SweptToken]


@dataclass(frozen=True)
class _Runs:
    """What was measured."""

    unchanged: Measured
    """[contexts]"""
    candidates: Measured
    """[contexts, candidates]"""
    controls: list[Measured]
    """Group of candidates of like frequency -> [contexts, k]."""
    like: ControlTokens

    def beside(self, at: int) -> Measured:
        """[contexts, k] the controls of one candidate."""
        return self.controls[self.like.group[at]]

    @property
    def control_means(self) -> list[NDArray[np.float64]]:
        """Group -> [k] mean over contexts of each control token."""
        return [controls.response.mean(0, dtype=np.float64) for controls in self.controls]

    @property
    def means(self) -> NDArray[np.float64]:
        """[candidates] mean over contexts."""
        return self.candidates.response.mean(0, dtype=np.float64)


def sweep(subject: Subject, request: SweepRequest) -> SweepResult:
    """Responses with each candidate, and with tokens of like frequency, put into the same contexts.

    Raises:
        SpdToolsError: for an unknown component or token, a token that is given twice, contexts that the harvest has
            not, and where it has too few tokens for controls.
    """
    subject.harvest.keys.flat(request.key)
    candidates = _candidates(subject, request.tokens)
    places = sites(
        subject,
        request.key,
        request.base,
        request.n_contexts,
        subject.rng(request, "contexts"),
        token=None if request.on is None else subject.token_of(request.on),
        first=-request.offset,
    )
    runs = _run(subject, request, places, candidates)
    tokens = _lines(subject, request, candidates, runs)
    effect, control, p_value = _as_a_set(subject, request, runs)
    result = SweepResult(
        **subject.identity(request),
        kind="counterfactual",
        population=_population(subject, request, len(places)),
        n=len(places),
        effect=effect,
        control=control,
        p_value=p_value,
        matching=runs.like.ratio,
        summary="",
        request=request,
        chosen=int(candidates[_farthest(runs)]),
        unchanged=mean_of(runs.unchanged.response, subject.rng(request, "unchanged")),
        tokens=tokens,
    )
    return result.model_copy(update={"summary": _summary(subject, result)})


def _candidates(subject: Subject, tokens: list[int | str]) -> NDArray[np.int64]:
    found: list[int] = []
    for token in tokens:
        token_id = subject.token_of(token)
        if token_id in found:
            raise SpdToolsError(f"The token {token!r} is given twice; give every candidate once.")
        found.append(token_id)
    return np.array(found, np.int64)


def _run(subject: Subject, request: SweepRequest, places: Sites, candidates: NDArray[np.int64]) -> _Runs:
    like = ControlTokens.like(
        subject.harvest, candidates.tolist(), request.n_controls, subject.rng(request, "control tokens")
    )
    n, k = len(places), like.k
    contexts, replaced = places.contexts(subject.harvest), places.position + request.offset
    original = contexts[np.arange(n), replaced]
    put_in = np.concatenate([original[:, None], np.tile(np.concatenate([candidates, *like.tokens]), (n, 1))], 1)
    context = np.repeat(np.arange(n), put_in.shape[1])
    rows = exchanged(contexts, context, replaced[context], put_in.reshape(-1))
    found = measure(subject, request.key, request.response, places.position[context], rows).reshape(n, -1)
    first = 1 + len(candidates)
    return _Runs(
        unchanged=found[:, 0],
        candidates=found[:, 1:first],
        controls=[found[:, first + group * k : first + (group + 1) * k] for group in range(len(like.tokens))],
        like=like,
    )


def _lines(subject: Subject, request: SweepRequest, candidates: NDArray[np.int64], runs: _Runs) -> list[SweptToken]:
    harvest, means = subject.harvest, runs.control_means
    counts = harvest.vocabulary("input")
    beside = [means[group] for group in runs.like.group]
    p_values = holm([rank_test(float(own), controls) for own, controls in zip(runs.means, beside, strict=True)])
    rng = subject.rng(request, "intervals")
    lines: list[SweptToken] = []
    for at, token in enumerate(candidates.tolist()):
        own, controls = runs.candidates[:, at], runs.beside(at)
        response, difference = mean_and_difference(own.response, controls.response.mean(1, dtype=np.float64), rng)
        lines.append(
            SweptToken(
                token_id=token,
                text=harvest.token_text(token),
                count=int(counts[token]),
                response=response,
                control=central(beside[at]),
                difference=difference,
                firing_rate=float(own.fires.mean()),
                control_firing_rate=float(controls.fires.mean()),
                p_value=p_values[at],
            )
        )
    return lines


def _as_a_set(subject: Subject, request: SweepRequest, runs: _Runs) -> tuple[Estimate, Estimate, float]:
    """Effect, control and p-value of all candidates together."""
    group = np.array(runs.like.group)
    groups = [(runs.means[group == number], controls) for number, controls in enumerate(runs.control_means)]
    there = [runs.beside(at).response.mean(1, dtype=np.float64) for at in range(len(group))]
    together = runs.candidates.response.mean(1, dtype=np.float64)
    # Of one candidate it is the interval of its line.
    effect = mean_beside(together, np.mean(there, 0), subject.rng(request, "intervals"))
    control = grouped_control(groups, subject.rng(request, "control"))
    return effect, control, grouped_test(groups, subject.rng(request, "test"))


def _farthest(runs: _Runs) -> int:
    """Which candidate differs most from its controls, in standard deviations; of equal ones the first."""
    controls = [runs.control_means[group] for group in runs.like.group]
    pairs = [(own[None], values[:, None]) for own, values in zip(runs.means, controls, strict=True)]
    return int(np.argmax([scaled_deviations(own, values)[0] for own, values in pairs]))


def _population(subject: Subject, request: SweepRequest, n: int) -> str:
    where = {
        "random": "positions of the harvest",
        "firing": f"positions where {request.key} fired",
        "silent": f"positions where {request.key} did not fire",
    }[request.base]
    on = "" if request.on is None else f", on {subject.shown(request.on)},"
    return f"{n} {where}{on} with the token at offset {request.offset} replaced"


def _summary(subject: Subject, result: SweepResult) -> str:
    request, n = result.request, len(result.tokens)
    assert result.control is not None
    who = subject.shown(result.tokens[0].token_id) if n == 1 else f"The {n} tokens"
    sentences = [
        f"{who} at offset {request.offset} {'gives' if n == 1 else 'together give'} mean {request.response} response "
        f"{said(result.effect)}, against {said(result.control)} with {'' if n == 1 else f'{n} of '}"
        f"{result.control.n} tokens of like frequency (p = {result.p_value:.2g})",
        *([] if n == 1 else [_by_themselves(subject, result)]),
        unlike_said(result.matching, "frequency").capitalize(),
        "Tokens that were not tried may do the same",
    ]
    return ". ".join(sentence for sentence in sentences if sentence) + "."


def _by_themselves(subject: Subject, result: SweepResult) -> str:
    """How many of several candidates differ one by one, and what to do where they are not of one kind."""
    assert result.control is not None
    n, k = len(result.tokens), result.control.n
    most = subject.shown(result.chosen)
    if n > _LEVEL * (k + 1) + 1e-9:
        enough = 20 * n - 1
        more = f", or take {enough} controls" if k == result.request.n_controls and enough <= _MOST_CONTROLS else ""
        return f"{most} differs most; none of {n} can differ by itself among {k}: sweep one alone{more}"
    differ = sum(token.p_value <= _LEVEL for token in result.tokens)
    if not differ:
        return f"None of {n} differs by itself"
    verb = "differs by itself" if differ == 1 else "differ by themselves"
    mixed = " (a mixed set: sweep one alone)" if differ < n else ""
    return f"{differ} of {n} {verb}, most of all {most}{mixed}"
