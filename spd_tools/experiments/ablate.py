"""Ablation: a component is removed, kept alone or set to a value, and the next-token logits say what it does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.ablate_measure import (
    LOGIT_FLOOR,
    Controls,
    Own,
    control_changes,
    own_changes,
    places_of,
    silent_kl,
)
from spd_tools.experiments.ablate_records import AblateRequest, AblateResult, TokenEffect
from spd_tools.experiments.contrasts import said
from spd_tools.experiments.intervention import KL_FLOOR, Changes, Intervention
from spd_tools.experiments.like_components import around_zero, typical
from spd_tools.experiments.matching import unlike_said
from spd_tools.experiments.population import central, greater_test, signed_test
from spd_tools.experiments.records import Estimate
from spd_tools.experiments.statistics import bootstrap_mean, holm
from spd_tools.experiments.subject import Subject
from spd_tools.experiments.substitution import measure as measure_activation
from spd_tools.wording import by_number, plural

__all__ = ["MIN_FOR_SUPPRESSION", "AblateRequest", "AblateResult", "TokenEffect", "ablate"]

MIN_FOR_SUPPRESSION = 20
"""Sites below which nothing is said to suppress."""
_NAMED = 3  # tokens in a summary


def ablate(subject: Subject, request: AblateRequest) -> AblateResult:
    """Change one component at some sites and compare the next-token distributions.

    Raises:
        SpdToolsError: for an unknown component or token, a value without a clamp or a clamp without one, a place where
            the component has no sites, and where fewer components or tokens are there to compare with.
    """
    subject.harvest.keys.flat(request.key)
    intervention = _intervention(request)
    asked = _asked(subject, request)
    places = places_of(subject, request)
    own = own_changes(subject, request, places, intervention, asked)
    controls = control_changes(subject, request, intervention, asked, own)

    def mean(values: NDArray[np.floating], purpose: str) -> Estimate:
        estimate = bootstrap_mean(values, subject.rng(request, f"interval of {purpose}"))
        assert estimate is not None  # there is at least one site
        return estimate

    contexts = places.contexts(subject.harvest)
    natural = measure_activation(subject, request.key, "ranking", places.position, lambda at: contexts[at]).response
    silent = silent_kl(subject, request, intervention)
    kl, kl_control = mean(own.all.kl, "kl"), typical(controls.kl)
    kl_p_value = greater_test(kl.value, controls.kl, KL_FLOOR)
    effect, control, p_value = kl, kl_control, kl_p_value
    if len(asked):
        effect = mean(own.all.logits.mean(1), "tokens")
        pool = np.mean([controls.on_like(at) for at in range(len(asked))], 0)
        control, p_value = around_zero(pool), signed_test(effect.value, pool)
    raises, lowers = _listed(subject, request, own, controls)
    result = AblateResult(
        **subject.identity(request),
        kind="counterfactual",
        population=f"{_sites(request, len(places))}; {plural(len(controls.keys), 'component')} of like density at "
        f"{by_number(len(controls.keys), 'its', 'their')} own",
        n=len(places),
        effect=effect,
        control=control,
        p_value=p_value,
        matching=controls.ratio,
        summary="",
        request=request,
        controls=controls.keys,
        activation=mean(natural, "activation"),
        n_negative=int(np.count_nonzero(natural < 0)),
        kl=kl,
        kl_control=kl_control,
        kl_p_value=kl_p_value,
        later_kl=None if own.all.later_kl is None else mean(own.all.later_kl, "later"),
        silent_kl=None if silent is None else mean(silent, "silent"),
        tokens=_asked_lines(subject, request, asked, own, controls),
        token_matching=controls.like_ratio,
        raises=raises,
        raises_alike=own.raised_alike,
        lowers=lowers,
        lowers_alike=own.lowered_alike,
    )
    return result.model_copy(update={"summary": _summary(subject, result)})


def _intervention(request: AblateRequest) -> Intervention:
    if request.mode == "clamp" and request.value is None:
        raise SpdToolsError("A clamp needs the activation to set; give value.")
    if request.mode != "clamp" and request.value is not None:
        raise SpdToolsError(f"A value is for clamping, not for {request.mode!r}; leave it out or ask for mode clamp.")
    if request.mode == "alone" and request.where == "site":
        raise SpdToolsError("A component is kept alone in whole rows only; ask for where everywhere.")
    return Intervention(request.mode, request.where, request.value)


def _asked(subject: Subject, request: AblateRequest) -> NDArray[np.int64]:
    found = np.array([subject.token_of(token) for token in request.tokens], np.int64)
    if len(np.unique(found)) < len(found):
        raise SpdToolsError("A token is given twice; give each once.")
    return found


def _line(
    subject: Subject,
    request: AblateRequest,
    token: int,
    changes: Changes,
    column: int,
    controls: Controls,
    like: Estimate | None = None,
    p_value: float | None = None,
) -> TokenEffect:
    effect = bootstrap_mean(changes.logits[:, column], subject.rng(request, f"interval of token {token}"))
    assert effect is not None
    return TokenEffect(
        token_id=token,
        text=subject.harvest.token_text(token),
        effect=effect,
        same_token=central(controls.logits[token]),
        like_tokens=like,
        probability_before=float(changes.before[:, column].mean(dtype=np.float64)),
        probability_after=float(changes.after[:, column].mean(dtype=np.float64)),
        p_value=p_value,
    )


def _asked_lines(
    subject: Subject, request: AblateRequest, asked: NDArray[np.int64], own: Own, controls: Controls
) -> list[TokenEffect]:
    means = own.all.logits.mean(0, dtype=np.float64)
    pools = [controls.on_like(at) for at in range(len(asked))]
    p_values = holm([signed_test(float(mean), pool) for mean, pool in zip(means, pools, strict=True)])
    return [
        _line(subject, request, int(token), own.all, at, controls, around_zero(pools[at]), p_values[at])
        for at, token in enumerate(asked)
    ]


def _listed(
    subject: Subject, request: AblateRequest, own: Own, controls: Controls
) -> tuple[list[TokenEffect] | None, list[TokenEffect] | None]:
    second = own.second
    if second is None:
        return None, None
    start = len(request.tokens)
    tokens = [int(token) for token in (*own.raised, *own.lowered)]
    lines = [_line(subject, request, token, second, start + at, controls) for at, token in enumerate(tokens)]
    return lines[: len(own.raised)], lines[len(own.raised) :]


# --- in words ---------------------------------------------------------------------------------------------------------


def _sites(request: AblateRequest, n: int) -> str:
    if request.sign != "any":
        return f"{plural(n, 'site')} where it fires with a {request.sign} activation"
    places = {"firing": "where it fires", "silent": "where it does not fire", "random": "anywhere"}
    return f"{plural(n, 'site')} {places[request.base]}"


def _summary(subject: Subject, result: AblateResult) -> str:
    request = result.request
    done = {
        "remove": f"{request.key} removed",
        "alone": f"{request.key} alone in its layer, against nothing of the layer",
        "clamp": f"{request.key} set to {request.value}",
    }[request.mode]
    reach = "" if request.where == "everywhere" else " at the site only"
    fewer = ", all that can be compared" if len(result.controls) < request.n_controls else ""
    parts = [
        f"{done}{reach}, {_sites(request, result.n)}: KL {said(result.kl)} nats "
        f"({plural(len(result.controls), 'component')} of like density{fewer}, {said(result.kl_control)}; "
        f"p = {result.kl_p_value:.2g})",
        *([_asked_said(result)] if request.tokens else _listed_said(subject, result)),
    ]
    if result.n < MIN_FOR_SUPPRESSION:
        parts.append(f"{plural(result.n, 'site')} {by_number(result.n, 'is', 'are')} too few to claim suppression")
    if 0 < result.n_negative < result.n:
        parts.append(
            f"its activation is negative at {result.n_negative} of the sites, so effects may cancel: ask for one sign"
        )
    parts += [unlike_said(result.matching, "density"), unlike_said(result.token_matching, "frequency")]
    return f"{'; '.join(part for part in parts if part)}. {_ranked_said(result)}."


def _ranked_said(result: AblateResult) -> str:
    """What each kind of p-value is against."""
    if not result.tokens:
        return "p is the rank of its KL among theirs (one-sided)"
    on = "that token" if len(result.tokens) == 1 else "those tokens"
    return (
        f"The first p is the rank of its KL among theirs (one-sided), the second that of its logits on {on} among "
        "theirs on tokens of like frequency (two-sided)"
    )


def _listed_said(subject: Subject, result: AblateResult) -> list[str]:
    if result.raises is None or result.lowers is None:
        return []
    raises, lowers = _sure(result.raises, 1), _sure(result.lowers, -1)
    parts = [_named(subject, "raises", raises, result.raises[-1:], result.raises_alike)] if raises else []
    # Few sites are not enough to speak of lowered tokens.
    if lowers and result.n >= MIN_FOR_SUPPRESSION:
        parts.append(_named(subject, "lowers", lowers, result.lowers[-1:], result.lowers_alike))
    return parts if raises or lowers else ["no single token moves for certain"]


def _sure(lines: Sequence[TokenEffect], sign: int) -> list[TokenEffect]:
    """Those whose interval, in the half of the sites where they were not chosen, does not reach 0."""
    bounds = [line.effect.low if sign > 0 else line.effect.high for line in lines]
    return [line for line, bound in zip(lines, bounds, strict=True) if bound is not None and sign * bound > 0]


def _named(subject: Subject, verb: str, lines: list[TokenEffect], last: list[TokenEffect], alike: int) -> str:
    """The first three, and how many do not differ from the third but in the order of their ids."""
    least = lines[:_NAMED][-1]

    def as_much(line: TokenEffect) -> bool:
        return abs(line.effect.value - least.effect.value) <= LOGIT_FLOOR

    more = sum(as_much(line) for line in lines[_NAMED:]) + alike * all(as_much(line) for line in last)
    equals = f" and {more} more as much" if more else ""
    return f"it most {verb} {', '.join(subject.shown(line.token_id) for line in lines[:_NAMED])}{equals}"


def _asked_said(result: AblateResult) -> str:
    effect, n = result.effect, len(result.tokens)
    assert effect is not None
    what = "the token asked for" if n == 1 else f"the {n} tokens asked for, on average"
    numbers = f"{said(effect)} logits, those components on like tokens {said(result.control)}; p = {result.p_value:.2g}"
    if not result.excludes_control:
        return f"it does not stand out on {what} ({numbers})"
    if effect.value < 0 and result.n < MIN_FOR_SUPPRESSION:
        return f"it moves {what} ({numbers})"
    return f"it {'raises' if effect.value > 0 else 'lowers'} {what} ({numbers})"
