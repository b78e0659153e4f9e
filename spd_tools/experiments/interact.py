"""Interaction of two tokens: does the effect of one on a component depend on the other?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.contrasts import mean_beside, said
from spd_tools.experiments.interact_runs import Grid, Place, run_grid
from spd_tools.experiments.matching import ControlTokens, unlike_said
from spd_tools.experiments.population import Groups, grouped_control, grouped_test
from spd_tools.experiments.records import Estimate, Request, Response, Result
from spd_tools.experiments.sites import Sites, sites
from spd_tools.experiments.statistics import holm
from spd_tools.experiments.subject import Base, Subject
from spd_tools.store.records import Record

MAX_TOKENS = 8
MIDDLE = (0.25, 0.75)
"""Shares of the effective maximum between which a base counts as "mid": it can go up and down."""
_LEVEL = 0.05
_PLACES = ("first", "second")


class InteractRequest(Request):
    """Put tokens i and j into contexts, alone and together."""

    experiment: Literal["interact"] = "interact"
    first_tokens: list[int | str] = Field(
        min_length=1, max_length=MAX_TOKENS, description="tokens i: texts of one token, or ids"
    )
    second_tokens: list[int | str] = Field(
        min_length=1, max_length=MAX_TOKENS, description="tokens j: texts of one token, or ids"
    )
    first_offset: int = Field(default=-1, ge=-1024, le=0, description="where i is put, from the measured position")
    second_offset: int = Field(default=0, ge=-1024, le=0, description="where j is put, from the measured position")
    base: Base | Literal["mid"] = Field(
        default="random",
        description="contexts: any harvested position (random), where it fires (firing), where it does not (silent), "
        "or where it fires with 25 to 75 % of its effective maximum (mid: room to go up and down)",
    )
    n_contexts: int = Field(default=16, ge=2, le=256, description="contexts")
    n_controls: int = Field(
        default=39,
        ge=1,
        le=499,
        description="tokens of like frequency in the place of each token, all in the same contexts; at least 19, and "
        "20 per pair for each pair to be tested by itself",
    )
    response: Response = Field(
        default="ranking", description="what is measured; gating activations saturate, which looks like an interaction"
    )

    @model_validator(mode="after")
    def _two_places(self) -> Self:
        if self.first_offset == self.second_offset:
            raise ValueError("both tokens cannot stand in one place: give two different offsets")
        return self


class TokenRef(Record):
    """A token that was put in."""

    token_id: int
    text: str | None


class PairInteraction(Record):
    """One token pair: mean responses over the contexts."""

    first: TokenRef
    second: TokenRef
    neither: float
    """Mean f(B)."""
    first_only: float
    """Mean f(B+i)."""
    second_only: float
    """Mean f(B+j)."""
    both: float
    """Mean f(B+i+j)."""
    interaction: Estimate
    """Mean of I = f(B+i+j) - f(B+i) - f(B+j) + f(B) over contexts; the interval leaves out what contexts do to the
    controls too."""
    control: Estimate
    """The same with tokens of like frequency in one of the two places (where the pair stands out less): mean over them,
    and the limits within which 95 % of them lie."""
    p_other_first: float
    """Rank of I among those of j with other tokens in the first place, two-sided; not corrected."""
    p_other_second: float
    """Rank of I among those of i with other tokens in the second place, two-sided; not corrected."""
    p_value: float
    """The larger of the two, corrected (Holm) for the number of pairs."""


class InteractResult(Result):
    """Interactions of all pairs; ``effect`` is their mean. Above zero: together they do more than alone (conjunction);
    below: one takes away what the other brings (gate).

    The unit is the token. j must change what i does unlike other tokens of like frequency in j's place do, and i must
    change what j does unlike others in its own place: both are tested, over the tokens of a place as a set and over as
    many as ``n_controls`` others in the same contexts, and the larger p-value counts (intersection-union test, Berger
    1982). ``control`` belongs to the place where they stand out less: limits within which 95 % of the means of as many
    other tokens lie.
    """

    request: InteractRequest
    p_other_first: float
    """Are the first tokens as a set like other tokens in their place?"""
    p_other_second: float
    """The same of the second tokens."""
    heatmap: list[list[float]]
    """[i][j] mean I."""
    pairs: list[PairInteraction]
    """Row by row of the heatmap."""


@dataclass(frozen=True)
class _Compared:
    """Some first and second tokens, beside other tokens in one of their places."""

    effect: Estimate
    control: Estimate
    """Of the place where they stand out less."""
    p_others: tuple[float, float]
    """With other tokens in the first place, and in the second."""
    place: int
    """Which of the two it is."""

    @property
    def p_value(self) -> float:
        return max(self.p_others)


def interact(subject: Subject, request: InteractRequest) -> InteractResult:
    """I = f(B+i+j) - f(B+i) - f(B+j) + f(B) for all token pairs over contexts of the harvest.

    Every token is also run with tokens like those of the other place, in the same contexts.

    Raises:
        SpdToolsError: for an unknown component, a text that is not one token, a token given twice, a base of which
            the harvest has none, and where it has too few tokens for controls.
    """
    subject.harvest.keys.flat(request.key)
    first, second = _tokens(subject, request.first_tokens), _tokens(subject, request.second_tokens)
    like = ControlTokens.like(
        subject.harvest, [*first, *second], request.n_controls, subject.rng(request, "control tokens")
    )
    places = (
        Place.of(request.first_offset, np.array(first), like, like.group[: len(first)]),
        Place.of(request.second_offset, np.array(second), like, like.group[len(first) :]),
    )
    found = _bases(subject, request)
    grid = run_grid(subject, request.key, request.response, found, *places)
    together = _compare(grid, places, slice(None), slice(None), subject.rng(request, "together"))
    result = InteractResult(
        **subject.identity(request),
        kind="counterfactual",
        population=f"{len(found)} contexts of the harvest ({request.base}), {len(first)} x {len(second)} token pairs",
        n=len(found),
        effect=together.effect,
        control=together.control,
        p_value=together.p_value,
        matching=like.ratio,
        summary="",
        request=request,
        p_other_first=together.p_others[0],
        p_other_second=together.p_others[1],
        heatmap=grid.interaction.mean(2).tolist(),
        pairs=_pairs(subject, request, places, grid),
    )
    return result.model_copy(update={"summary": _summary(result, together.place)})


def _tokens(subject: Subject, texts: list[int | str]) -> list[int]:
    tokens = [subject.token_of(text) for text in texts]
    for at, token in enumerate(tokens):
        if token in tokens[:at]:
            raise SpdToolsError(f"The token {texts[at]!r} is given twice; give it once.")
    return tokens


def _bases(subject: Subject, request: InteractRequest) -> Sites:
    room = -min(request.first_offset, request.second_offset)
    rng = subject.rng(request, "contexts")
    if request.base != "mid":
        return sites(subject, request.key, request.base, request.n_contexts, rng, first=room)
    harvest, log = subject.harvest, subject.harvest.activations(request.key)
    effective_max = harvest.component(request.key).effective_max
    if effective_max:
        firings = sites(subject, request.key, "firing", len(log), rng, first=room)
        places = np.searchsorted(log.token, firings.row * harvest.seq_len + firings.position)
        share = np.abs(log.values[harvest.ranking_kind][places]) / effective_max
        middle = np.flatnonzero((share >= MIDDLE[0]) & (share <= MIDDLE[1]))
        if len(middle):
            picked = np.sort(rng.choice(middle, min(request.n_contexts, len(middle)), replace=False))
            return Sites(firings.row[picked], firings.position[picked])
    raise SpdToolsError(
        f"No logged firing of {request.key} lies between {MIDDLE[0]:.0%} and {MIDDLE[1]:.0%} of its effective maximum "
        "with room before it; take the base random or firing."
    )


def _compare(
    grid: Grid, places: tuple[Place, Place], first: slice, second: slice, rng: np.random.Generator
) -> _Compared:
    """Some first and some second tokens as sets, with other tokens in either place."""
    own = grid.interaction[first, second]
    means = own.mean(2)
    sides = (
        (means.mean(1), places[0].group[first], grid.other_first[:, :, second].mean(2)),
        (means.mean(0), places[1].group[second], grid.other_second[first].mean(0)),
    )
    groups: list[Groups] = [
        [(values[group == number], others[number].mean(1)) for number in np.unique(group)]
        for values, group, others in sides
    ]
    p_others = (grouped_test(groups[0], rng), grouped_test(groups[1], rng))
    controls = [grouped_control(side, rng) for side in groups]
    place = max((0, 1), key=lambda at: (p_others[at], -_apart(float(means.mean()), controls[at])))
    _, group, others = sides[place]
    there = others[group].mean((0, 1))
    return _Compared(mean_beside(own.mean((0, 1)), there, rng), controls[place], p_others, place)


def _apart(value: float, control: Estimate) -> float:
    """How far a value lies outside an interval; below zero inside it."""
    assert control.low is not None  # of at least LEAST_CONTROLS
    assert control.high is not None
    return max(control.low - value, value - control.high)


def _pairs(
    subject: Subject, request: InteractRequest, places: tuple[Place, Place], grid: Grid
) -> list[PairInteraction]:
    refs = [
        [TokenRef(token_id=token, text=subject.harvest.token_text(token)) for token in place.tokens.tolist()]
        for place in places
    ]
    pairs = [(i, j) for i in range(len(refs[0])) for j in range(len(refs[1]))]
    rng = subject.rng(request, "pairs")
    compared = [_compare(grid, places, slice(i, i + 1), slice(j, j + 1), rng) for i, j in pairs]
    p_values = holm([one.p_value for one in compared])
    return [
        PairInteraction(
            first=refs[0][i],
            second=refs[1][j],
            neither=float(grid.neither.mean()),
            first_only=float(grid.first[i].mean()),
            second_only=float(grid.second[j].mean()),
            both=float(grid.both[i, j].mean()),
            interaction=one.effect,
            control=one.control,
            p_other_first=one.p_others[0],
            p_other_second=one.p_others[1],
            p_value=p_value,
        )
        for (i, j), one, p_value in zip(pairs, compared, p_values, strict=True)
    ]


# --- in words ---------------------------------------------------------------------------------------------------------


def _summary(result: InteractResult, place: int) -> str:
    request, effect, control, p_value = result.request, result.effect, result.control, result.p_value
    assert effect is not None
    assert control is not None
    assert p_value is not None
    if p_value > _LEVEL:
        found = "no more than such tokens do"
    else:
        found = "together they bring more than alone" if effect.value > control.value else "one takes from the other"
    sentences = [
        f"Mean interaction {said(effect)} in the {request.response} response of {request.key}, against {said(control)} "
        f"with other tokens of like frequency in the {_PLACES[place]} place, where it stands out less (p = "
        f"{result.p_other_first:.2g} with others in the first place, {result.p_other_second:.2g} in the second; both "
        f"must differ): {found}",
        *([] if len(result.pairs) == 1 else [_by_themselves(result, control.n)]),
        unlike_said(result.matching, "frequency").capitalize(),
        "Other tokens, distances and contexts were not tried",
    ]
    return ". ".join(sentence for sentence in sentences if sentence) + "."


def _by_themselves(result: InteractResult, n_controls: int) -> str:
    """How many of several pairs differ one by one."""
    n = len(result.pairs)
    if n > _LEVEL * (n_controls + 1) + 1e-9:
        return (
            f"None of {n} pairs can differ by itself among {n_controls} tokens: ask for one alone, or for "
            f"{20 * n - 1} controls"
        )
    differ = sum(pair.p_value <= _LEVEL for pair in result.pairs)
    return f"{differ} of {n} pairs {'differs by itself' if differ == 1 else 'differ by themselves'}"
