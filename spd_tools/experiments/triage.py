"""Triage: is a component worth anybody's time?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from spd_tools.experiments.contrasts import said
from spd_tools.experiments.intervention import KL_FLOOR, Changes, Intervention, measure_each
from spd_tools.experiments.like_components import like_components, typical
from spd_tools.experiments.matching import unlike_said
from spd_tools.experiments.population import greater_test
from spd_tools.experiments.records import Estimate, Ratio, Request, Result
from spd_tools.experiments.sites import sites
from spd_tools.experiments.statistics import bootstrap_mean
from spd_tools.experiments.subject import Base, Subject
from spd_tools.keys import ComponentKey
from spd_tools.store.records import Record
from spd_tools.wording import plural

Verdict = Literal["dead", "no measurable effect", "weak", "worth it"]

_LOGIT_FLOOR = 1e-5  # what float32 logits that should be equal differ by


class TriageRequest(Request):
    """Does it fire, and does it matter where it does?"""

    experiment: Literal["triage"] = "triage"
    n_sites: int = Field(default=8, ge=2, le=256, description="firings, of it and of each control")
    n_controls: int = Field(
        default=99, ge=1, le=999, description="random components of like density, as far as there are; at least 19"
    )


class NormRank(Record):
    """Norm of a read or write vector."""

    norm: float
    rank: int
    """1: the largest in its layer. Of equal norms the smaller rank."""
    of: int
    """Components in the layer."""


class TriageResult(Result):
    """First numbers of a component, and what they come to.

    ``effect`` is the mean KL(unchanged || removed) in nats at a few firings, ``control`` the median of that over
    components of like density with the limits within which 95 % of them lie; the p-value is one-sided. A component that
    never fires has none of these: ``random_kl`` says what removing it does at random positions.

    Verdicts: "dead" - it fires at no harvested position; "no measurable effect" - removing it changes nothing at the
    sites beyond rounding; "weak" - both its KL and the logit that it changes most lie below the intervals of its
    controls (a component that lowers improbable tokens has a small KL only); else "worth it". Few sites can show that
    something is there, hardly that nothing is.
    """

    request: TriageRequest
    verdict: Verdict
    reasons: list[str]
    firing_count: int
    density: float
    density_limit: float | None
    """Of one that never fired: its density lies below this with 95 % confidence (3 / tokens, if they are a sample)."""
    read_norm: NormRank
    """As stored. In an SPD run the scale is shared arbitrarily between read and write vector."""
    write_norm: NormRank
    product_norm: NormRank
    """Read norm times write norm: the size of the component's weight matrix, whatever the share."""
    kl: Estimate | None
    """Mean KL at firings; None for one that never fired."""
    kl_control: Estimate | None
    largest_logit: float | None
    """Largest absolute mean change of a next-token logit (less the vocabulary's median) at those firings."""
    largest_logit_control: Estimate | None
    """Median of that over the controls, with the limits within which 95 % of them lie."""
    random_kl: Estimate
    """Mean KL at as many random positions."""


@dataclass(frozen=True)
class _Compared:
    """Removing it at firings, beside removing controls at theirs."""

    kl: Estimate
    kl_control: Estimate
    logit: float
    logit_control: Estimate
    p_value: float
    ratio: Ratio
    fewer: bool
    """There were fewer controls than asked for."""


def triage(subject: Subject, request: TriageRequest) -> TriageResult:
    """Density and norms of a component, and what removing it does at a few positions.

    Raises:
        SpdToolsError: for an unknown component, and where fewer components fire than it is to be compared with.
    """
    harvest, record = subject.harvest, subject.harvest.component(request.key)
    norms = _norms(subject, request.key)
    random_kl = _mean(subject, request, _removed(subject, request, [request.key], "random")[0].kl, "random")
    found = _compared(subject, request) if record.firing_count else None
    verdict, reasons = _verdict(record.firing_count, harvest.n_tokens, found, random_kl)
    return TriageResult(
        **subject.identity(request),
        kind="mixed",
        population=f"{harvest.n_tokens:,} harvested tokens; a few positions where it is removed",
        n=found.kl.n if found else random_kl.n,
        effect=found.kl if found else None,
        control=found.kl_control if found else None,
        p_value=found.p_value if found else None,
        matching=found.ratio if found else None,
        summary=f"{request.key}: {verdict}. {' '.join(reasons)}",
        request=request,
        verdict=verdict,
        reasons=reasons,
        firing_count=record.firing_count,
        density=record.density,
        density_limit=None if record.firing_count else min(1.0, 3 / harvest.n_tokens),
        read_norm=norms[0],
        write_norm=norms[1],
        product_norm=norms[2],
        kl=found.kl if found else None,
        kl_control=found.kl_control if found else None,
        largest_logit=found.logit if found else None,
        largest_logit_control=found.logit_control if found else None,
        random_kl=random_kl,
    )


@torch.no_grad()
def _norms(subject: Subject, key: ComponentKey) -> tuple[NormRank, NormRank, NormRank]:
    layer, index = key
    read, write = (
        torch.linalg.vector_norm(vectors.float(), dim=1)
        for vectors in (subject.decomposition.read_vectors(layer), subject.decomposition.write_vectors(layer))
    )
    read_rank, write_rank, product_rank = (
        NormRank(norm=float(values[index]), rank=1 + int((values > values[index]).sum()), of=len(values))
        for values in (read, write, read * write)
    )
    return read_rank, write_rank, product_rank


def _compared(subject: Subject, request: TriageRequest) -> _Compared:
    rng = subject.rng(request, "controls")
    controls = like_components(subject.harvest, request.key, request.n_controls, "firing", rng)
    own, *others = _removed(subject, request, [request.key, *controls.items], "firing")
    kl = np.array([other.kl.mean() for other in others])
    logit = np.array([np.abs(other.mean_logits).max() for other in others])
    mean = _mean(subject, request, own.kl, "firing")
    return _Compared(
        kl=mean,
        kl_control=typical(kl),
        logit=float(np.abs(own.mean_logits).max()),
        logit_control=typical(logit),
        p_value=greater_test(mean.value, kl, KL_FLOOR),
        ratio=controls.ratio,
        fewer=len(kl) < request.n_controls,
    )


def _removed(subject: Subject, request: TriageRequest, keys: Sequence[ComponentKey], base: Base) -> list[Changes]:
    arms = [
        (key, sites(subject, key, base, request.n_sites, subject.rng(request, f"{base} sites of {key}")))
        for key in keys
    ]
    return measure_each(subject, arms, Intervention(), np.empty(0, np.int64))


def _mean(subject: Subject, request: TriageRequest, values: NDArray[np.float64], base: Base) -> Estimate:
    estimate = bootstrap_mean(values, subject.rng(request, f"interval {base}"))
    assert estimate is not None  # sites() finds at least one
    return estimate


def _verdict(n_firings: int, n_tokens: int, found: _Compared | None, random_kl: Estimate) -> tuple[Verdict, list[str]]:
    if found is None:
        never = f"It fires at none of {n_tokens:,} harvested positions, so at fewer than 3 in {n_tokens:,} if at all."
        removed = f"Removed at {plural(random_kl.n, 'random position')} it changes"
        if random_kl.value <= KL_FLOOR:
            return "dead", [never, f"{removed} nothing."]
        return "dead", [never, f"{removed} the next token by KL {said(random_kl)} nats, without firing."]
    reasons = [
        f"It fires at {n_firings:,} of {plural(n_tokens, 'position')}.",
        f"Removed at {plural(found.kl.n, 'firing')}: KL {said(found.kl)} nats "
        f"({plural(found.kl_control.n, 'component')} of like density"
        f"{', all that can be compared' if found.fewer else ''}, {said(found.kl_control)}), and at most "
        f"{found.logit:.3g} on a logit ({said(found.logit_control)}).",
    ]
    unlike = unlike_said(found.ratio, "density")
    if unlike:
        reasons.append(f"{unlike.capitalize()}.")
    few = f"{plural(found.kl.n, 'site')} may have missed what it does elsewhere."
    if found.kl.value <= KL_FLOOR and found.logit <= _LOGIT_FLOOR:
        return "no measurable effect", [*reasons, few]
    if _below(found.kl.high, found.kl_control) and _below(found.logit, found.logit_control):
        return "weak", [*reasons, few]
    return "worth it", reasons


def _below(value: float | None, control: Estimate) -> bool:
    return value is not None and control.low is not None and value < control.low
