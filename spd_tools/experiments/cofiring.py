"""Co-firing: does one component fire with another beyond what the token explains?"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import Estimate, Request, Result
from spd_tools.experiments.subject import Subject
from spd_tools.experiments.token_strata import LoggedFirings, TokenStrata
from spd_tools.keys import ComponentKey
from spd_tools.store.records import KeyField

MIN_CORRELATED = 3
"""Common firings below which no correlation is computed."""


class CofiringRequest(Request):
    """Compare the logged firings of two components."""

    experiment: Literal["cofiring"] = "cofiring"
    other: KeyField = Field(description="the component to compare with")


class CofiringResult(Result):
    """i is the component asked about, j the other one.

    ``effect``: share of i's firings at which j fires too; ``control``: the share if j only knew the token (its firing
    rate on each token at which i fires); both with intervals over rows. ``p_value``: of independence given the token,
    the larger one of a test that takes positions and one that takes rows for independent; None where no token leaves
    anything to explain.
    """

    request: CofiringRequest
    n_i: int
    """Firings of i in the whole harvest."""
    n_j: int
    n_ij: int
    """Positions of the whole harvest at which both fire."""
    jaccard: float
    """n_ij / (n_i + n_j - n_ij)."""
    correlation: float | None
    """Pearson's, of the two ranking activations at logged common firings; None for fewer than three, and where one of
    them is always the same."""
    given_token: TokenStrata | None
    """None where no token leaves anything to explain."""
    read_cosine: float | None
    """Cosine of the read vectors, off the weights: duplicates have 1 (or, both vectors turned round, -1)."""
    write_cosine: float | None
    """The same of the write vectors: components that fire alike and write elsewhere are no duplicates."""
    cosines_absent: str | None
    """Why a cosine is missing."""


def cofiring(subject: Subject, request: CofiringRequest) -> CofiringResult:
    """Whether j fires with i more or less than both firing on the same tokens explains, from the logged rows.

    Raises:
        SpdToolsError: for an unknown component, one and the same component, or one without a logged firing.
    """
    harvest, i, j = subject.harvest, request.key, request.other
    harvest.keys.flat(j)
    if i == j:
        raise SpdToolsError(f"{i} always fires with itself; name another component.")
    for key in (i, j):
        if not len(harvest.activations(key)):
            raise SpdToolsError(f"{key} does not fire in the logged rows, so it cannot be compared; name another one.")
    firings = LoggedFirings.of(subject, i, j)
    effect, control = firings.shares(subject.rng(request, "effect"), subject.rng(request, "control"))
    given_token = firings.given_token(subject.rng(request, "rows"))
    n_ij = harvest.cooccurrence(i, j)
    n_i, n_j = (int(harvest.firing_counts[harvest.keys.flat(key)]) for key in (i, j))
    p_value = None if given_token is None else max(given_token.p_positions, given_token.p_rows)
    cosines = _cosines(subject, i, j)
    return CofiringResult(
        **subject.identity(request),
        kind="observational",
        population=f"{len(firings.token):,} positions of {firings.n_rows:,} logged rows",
        n=int(firings.i.sum()),
        effect=effect,
        control=control,
        p_value=p_value,
        summary=_summary(i, j, effect, control, given_token, p_value),
        request=request,
        n_i=n_i,
        n_j=n_j,
        n_ij=n_ij,
        jaccard=n_ij / (n_i + n_j - n_ij),
        correlation=_correlation(subject, i, j),
        given_token=given_token,
        **cosines,
    )


def _correlation(subject: Subject, i: ComponentKey, j: ComponentKey) -> float | None:
    harvest = subject.harvest
    logs = [harvest.activations(key) for key in (i, j)]
    _, *places = np.intersect1d(logs[0].token, logs[1].token, assume_unique=True, return_indices=True)
    pair = [np.asarray(log.values[harvest.ranking_kind], np.float64)[at] for log, at in zip(logs, places, strict=True)]
    if len(pair[0]) < MIN_CORRELATED or any(np.ptp(values) == 0 for values in pair):
        return None
    return float(np.clip(np.corrcoef(pair[0], pair[1])[0, 1], -1, 1))


def _cosines(subject: Subject, i: ComponentKey, j: ComponentKey) -> dict[str, Any]:
    found: dict[str, Any] = {"read_cosine": None, "write_cosine": None, "cosines_absent": None}
    try:
        decomposition = subject.decomposition
    except SpdToolsError as error:
        return found | {"cosines_absent": str(error)}
    absent: list[str] = []
    for side, vectors in (("read", decomposition.read_vectors), ("write", decomposition.write_vectors)):
        first, second = (vectors(key.layer)[key.index].detach().double().cpu() for key in (i, j))
        if first.shape != second.shape:
            absent.append(f"the {side} vectors live in different spaces ({len(first)} and {len(second)} wide)")
        elif not first.norm() > 0 or not second.norm() > 0:
            absent.append(f"a {side} vector is zero")
        else:
            found[f"{side}_cosine"] = float(torch.dot(first / first.norm(), second / second.norm()).clamp(-1, 1))
    return found | {"cosines_absent": "; ".join(absent) or None}


def _summary(
    i: ComponentKey, j: ComponentKey, effect: Estimate, control: Estimate, strata: TokenStrata | None, p: float | None
) -> str:
    start = (
        f"{j} fires at {effect.value:.1%} of the firings of {i}; its rates on their tokens give {control.value:.1%}."
    )
    if strata is None or p is None:
        return f"{start} On every token one of the two always or never fires, so nothing is left to explain."
    if p > 0.05:
        return f"{start} Beyond the token no association is seen (p = {p:.2g}); this does not show that there is none."
    more = "more" if strata.n_common > strata.expected else "less"
    return (
        f"{start} On the same token {j} fires {more} often where {i} fires (p = {p:.2g}): they share something beside "
        "the token, which need not be a cause."
    )
