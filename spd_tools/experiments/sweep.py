"""Substitution sweep: one token of many contexts is replaced by each of a list, and by tokens of like frequency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.contrasts import Arm, Standout, mean_of, said, stands_out
from spd_tools.experiments.matching import ControlTokens
from spd_tools.experiments.records import Estimate, Request, Response, Result
from spd_tools.experiments.sites import Sites, sites
from spd_tools.experiments.statistics import exchange_test, holm
from spd_tools.experiments.subject import Base, Subject
from spd_tools.experiments.substitution import Measured, exchanged, measure
from spd_tools.store.records import Record


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
    n_contexts: int = Field(default=32, ge=2, le=512, description="positions of the harvest")
    n_controls: int = Field(default=4, ge=1, le=16, description="tokens of like frequency beside each candidate")
    response: Response = Field(default="ranking", description="what is measured")


class SweptToken(Record):
    """What one candidate does."""

    token_id: int
    text: str | None
    count: int
    """How often it stands in the harvested rows."""
    response: Estimate
    """Mean over contexts with the candidate put in."""
    control: Estimate
    """Mean over contexts with tokens of like frequency put in."""
    difference: Estimate
    """Mean over contexts of response minus control."""
    firing_rate: float
    control_firing_rate: float
    p_value: float
    """Exchange test of the candidate against its controls within contexts, Holm-corrected over the candidates."""


class SweepResult(Result):
    """One line per candidate, in the order asked for.

    ``effect`` and ``control`` are those of the candidate that stands out. Of several candidates it is chosen in one
    half of the contexts and measured in the other; ``p_value`` is that of its line.
    """

    request: SweepRequest
    chosen: int
    """Token id of the candidate that stands out."""
    unchanged: Estimate
    """Mean response in the same contexts as they are."""
    tokens: list[SweptToken]


@dataclass(frozen=True)
class _Runs:
    """What was measured, column by column."""

    unchanged: Measured
    """[contexts]"""
    candidates: list[Measured]
    """Each [contexts]."""
    controls: list[Measured]
    """Along ``candidates``, each [contexts, k]; candidates of like frequency share theirs."""


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
    contexts = np.arange(len(places))
    arms = [
        Arm(contexts, candidate.response, control.response.mean(1))
        for candidate, control in zip(runs.candidates, runs.controls, strict=True)
    ]
    main = stands_out(arms, subject.rng(request, "main"))
    return SweepResult(
        **subject.identity(request),
        kind="counterfactual",
        population=_population(subject, request, len(places)),
        n=len(places),
        effect=main.effect,
        control=main.control,
        p_value=tokens[main.arm].p_value,
        summary=_summary(subject, request, tokens, main),
        request=request,
        chosen=tokens[main.arm].token_id,
        unchanged=mean_of(runs.unchanged.response, subject.rng(request, "unchanged")),
        tokens=tokens,
    )


def _candidates(subject: Subject, tokens: list[int | str]) -> NDArray[np.int64]:
    found: list[int] = []
    for token in tokens:
        token_id = subject.token_of(token)
        if token_id in found:
            raise SpdToolsError(f"The token {token!r} is given twice; give every candidate once.")
        found.append(token_id)
    return np.array(found, np.int64)


def _run(subject: Subject, request: SweepRequest, places: Sites, candidates: NDArray[np.int64]) -> _Runs:
    n, k = len(places), request.n_controls
    controls = ControlTokens.like(subject.harvest, candidates.tolist(), k, subject.rng(request, "control tokens"))
    contexts, replaced = places.contexts(subject.harvest), places.position + request.offset
    original = contexts[np.arange(n), replaced]
    put_in = np.concatenate([original[:, None], np.tile(candidates, (n, 1)), controls.draw(n)], 1)
    context = np.repeat(np.arange(n), put_in.shape[1])
    rows = exchanged(contexts, context, replaced[context], put_in.reshape(-1))
    found = measure(subject, request.key, request.response, places.position[context], rows).reshape(n, -1)
    first = 1 + len(candidates)
    return _Runs(
        unchanged=found[:, 0],
        candidates=[found[:, 1 + at] for at in range(len(candidates))],
        controls=[found[:, first + group * k : first + (group + 1) * k] for group in controls.group],
    )


def _lines(subject: Subject, request: SweepRequest, candidates: NDArray[np.int64], runs: _Runs) -> list[SweptToken]:
    harvest = subject.harvest
    rng = subject.rng(request, "tests")
    p_values = holm(
        [exchange_test(a.response, b.response, rng) for a, b in zip(runs.candidates, runs.controls, strict=True)]
    )
    rng = subject.rng(request, "intervals")
    counts = harvest.vocabulary("input")
    lines: list[SweptToken] = []
    for token, own, control, p_value in zip(candidates.tolist(), runs.candidates, runs.controls, p_values, strict=True):
        beside = control.response.mean(1, dtype=np.float64)
        lines.append(
            SweptToken(
                token_id=token,
                text=harvest.token_text(token),
                count=int(counts[token]),
                response=mean_of(own.response, rng),
                control=mean_of(beside, rng),
                difference=mean_of(own.response - beside, rng),
                firing_rate=float(own.fires.mean()),
                control_firing_rate=float(control.fires.mean()),
                p_value=p_value,
            )
        )
    return lines


def _population(subject: Subject, request: SweepRequest, n: int) -> str:
    where = {
        "random": "positions of the harvest",
        "firing": f"positions where {request.key} fired",
        "silent": f"positions where {request.key} did not fire",
    }[request.base]
    on = "" if request.on is None else f", on {subject.shown(request.on)},"
    return f"{n} {where}{on} with the token at offset {request.offset} replaced"


def _summary(subject: Subject, request: SweepRequest, tokens: list[SweptToken], main: Standout) -> str:
    line = tokens[main.arm]
    among = "" if len(tokens) == 1 else f"Of {len(tokens)} tokens "
    beyond = line.p_value <= 0.05
    verb = "gives " if not among else "stands out: " if beyond else "differs most, though not beyond chance: "
    n_significant = sum(token.p_value <= 0.05 for token in tokens)
    also = "" if len(tokens) == 1 else f" {n_significant} of {len(tokens)} candidates differ from theirs."
    return (
        f"{among}{subject.shown(line.token_id)} at offset {request.offset} "
        f"{verb}mean {request.response} response {said(main.effect)}, against "
        f"{said(main.control)} with tokens of like frequency (p = {line.p_value:.2g}).{also} "
        "Tokens that were not tried may do the same."
    )
