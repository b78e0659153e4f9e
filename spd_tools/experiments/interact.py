"""Interaction of two tokens: does the effect of one on a component depend on the other?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.contrasts import mean_of, said
from spd_tools.experiments.matching import ControlTokens
from spd_tools.experiments.records import Estimate, Request, Response, Result
from spd_tools.experiments.sites import Sites, sites
from spd_tools.experiments.statistics import exchange_test, holm
from spd_tools.experiments.subject import Base, Subject
from spd_tools.experiments.substitution import measure
from spd_tools.store.records import Record

MAX_TOKENS = 8
MIDDLE = (0.25, 0.75)
"""Shares of the effective maximum between which a base counts as "mid": it can go up and down."""
_AS_IS = -1  # in the place of a token: leave what stands there


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
    n_contexts: int = Field(default=24, ge=2, le=256, description="contexts")
    n_controls: int = Field(default=4, ge=1, le=16, description="grids of control tokens of like frequency per context")
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
    """Mean of I = f(B+i+j) - f(B+i) - f(B+j) + f(B), bootstrapped over contexts."""
    control: Estimate
    """The same of token pairs of like frequency in the same contexts."""
    p_value: float
    """Exchange test against the controls, corrected (Holm) for the number of pairs."""


class InteractResult(Result):
    """Interactions of all pairs; ``effect`` is their mean. Above zero: together they do more than alone (conjunction);
    below: one takes away what the other brings (gate)."""

    request: InteractRequest
    heatmap: list[list[float]]
    """[i][j] mean I."""
    pairs: list[PairInteraction]
    """Row by row of the heatmap."""


@dataclass(frozen=True)
class _Grid:
    """Responses with every combination of first and second tokens in the same contexts."""

    base: NDArray[np.float64]
    """[n]"""
    first: NDArray[np.float64]
    """[F, n]"""
    second: NDArray[np.float64]
    """[S, n]"""
    both: NDArray[np.float64]
    """[F, S, n]"""

    @classmethod
    def of(cls, base: NDArray[np.float64], measured: NDArray[np.float64], n_first: int, n_second: int) -> _Grid:
        """measured: [F + S + F S, n], as ``_variants`` lists them."""
        first, second, both = np.split(measured, [n_first, n_first + n_second])
        return cls(base, first, second, both.reshape(n_first, n_second, -1))

    @property
    def interaction(self) -> NDArray[np.float64]:
        """[F, S, n]"""
        return self.both - self.first[:, None] - self.second[None] + self.base


def interact(subject: Subject, request: InteractRequest) -> InteractResult:
    """I = f(B+i+j) - f(B+i) - f(B+j) + f(B) for all token pairs over contexts of the harvest.

    Each context also gets ``n_controls`` grids of other tokens, each of the frequency of the one it stands for: the
    effect is compared with theirs by an exchange test over contexts.

    Raises:
        SpdToolsError: for an unknown component, a text that is not one token, a token given twice, or a base of which
            the harvest has none.
    """
    first = _tokens(subject, request.first_tokens)
    second = _tokens(subject, request.second_tokens)
    found = _bases(subject, request)
    n = len(found)
    tokens = [(np.repeat(first[:, None], n, 1), np.repeat(second[:, None], n, 1))]
    tokens += _control_tokens(subject, request, first, second, n)
    base, *measured = _measured(subject, request, found, [_variants(*pair) for pair in tokens])
    grid, *others = [_Grid.of(base[0], part, len(first), len(second)) for part in measured]
    controls = np.stack([other.interaction for other in others])
    main, other = grid.interaction.mean((0, 1)), controls.mean((1, 2))
    effect = mean_of(main, subject.rng(request, "effect"))
    control = mean_of(other.mean(0), subject.rng(request, "control"))
    p_value = exchange_test(main, other.T, subject.rng(request, "exchange"))
    return InteractResult(
        **subject.identity(request),
        kind="counterfactual",
        population=f"{n} contexts of the harvest ({request.base}), {len(first)} x {len(second)} token pairs",
        n=n,
        effect=effect,
        control=control,
        p_value=p_value,
        summary=_summary(request, effect, control, p_value),
        request=request,
        heatmap=grid.interaction.mean(2).tolist(),
        pairs=_pairs(subject, request, (first, second), grid, controls),
    )


def _tokens(subject: Subject, texts: list[int | str]) -> NDArray[np.int64]:
    tokens = [subject.token_of(text) for text in texts]
    for at, token in enumerate(tokens):
        if token in tokens[:at]:
            raise SpdToolsError(f"The token {texts[at]!r} is given twice; give it once.")
    return np.array(tokens, np.int64)


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


def _control_tokens(
    subject: Subject, request: InteractRequest, first: NDArray[np.int64], second: NDArray[np.int64], n: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Per control grid ([F, n], [S, n]): every context has its own combination of the controls of each token."""
    rng = subject.rng(request, "controls")
    like = ControlTokens.like(subject.harvest, [*first.tolist(), *second.tolist()], request.n_controls, rng)
    drawn = np.stack([rng.permuted(np.tile(like.pools[group], (n, 1)), axis=1)[:, : like.k] for group in like.group])
    return [(drawn[: len(first), :, number], drawn[len(first) :, :, number]) for number in range(like.k)]


def _variants(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """[2, F + S + F S, n]: what is put in the first and in the second place, alone and together."""
    n_first, n_second = len(first), len(second)
    firsts = np.concatenate([first, np.full_like(second, _AS_IS), np.repeat(first, n_second, 0)])
    seconds = np.concatenate([np.full_like(first, _AS_IS), second, np.tile(second, (n_first, 1))])
    return np.stack([firsts, seconds])


def _measured(
    subject: Subject, request: InteractRequest, found: Sites, variants: list[NDArray[np.int64]]
) -> list[NDArray[np.float64]]:
    """Responses [variants, n] of the contexts as they are (one variant), then of each of the given ones."""
    n, contexts = len(found), found.contexts(subject.harvest)
    put_in = np.concatenate([np.full((2, 1, n), _AS_IS), *variants], 1)
    tokens = put_in.reshape(2, -1)
    which = np.tile(np.arange(n), put_in.shape[1])
    position = found.position[which]

    def rows(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        made = contexts[which[numbers]]
        for offset, put in zip((request.first_offset, request.second_offset), tokens[:, numbers], strict=True):
            changed = np.flatnonzero(put != _AS_IS)
            made[changed, position[numbers[changed]] + offset] = put[changed]
        return made

    responses = measure(subject, request.key, request.response, position, rows).response.reshape(-1, n)
    ends = np.cumsum([1, *(part.shape[1] for part in variants)])
    return np.split(responses.astype(np.float64), ends[:-1])


def _pairs(
    subject: Subject,
    request: InteractRequest,
    tokens: tuple[NDArray[np.int64], NDArray[np.int64]],
    grid: _Grid,
    controls: NDArray[np.float64],
) -> list[PairInteraction]:
    """controls: [n_controls, F, S, n]"""
    refs = [[TokenRef(token_id=t, text=subject.harvest.token_text(t)) for t in side.tolist()] for side in tokens]
    places = [(i, j) for i in range(len(refs[0])) for j in range(len(refs[1]))]
    rng = subject.rng(request, "pairs")
    interaction = grid.interaction
    p_values = holm([exchange_test(interaction[i, j], controls[:, i, j].T, rng) for i, j in places])
    pairs = []
    for (i, j), p_value in zip(places, p_values, strict=True):
        pairs.append(
            PairInteraction(
                first=refs[0][i],
                second=refs[1][j],
                neither=float(grid.base.mean()),
                first_only=float(grid.first[i].mean()),
                second_only=float(grid.second[j].mean()),
                both=float(grid.both[i, j].mean()),
                interaction=mean_of(interaction[i, j], rng),
                control=mean_of(controls[:, i, j].mean(0), rng),
                p_value=p_value,
            )
        )
    return pairs


def _summary(request: InteractRequest, effect: Estimate, control: Estimate, p_value: float) -> str:
    if p_value > 0.05:
        found = "no more than tokens of like frequency do"
    else:
        found = "together they bring more than alone" if effect.value > control.value else "one takes from the other"
    return (
        f"Mean interaction {said(effect)} in the {request.response} response of {request.key}, controls "
        f"{said(control)} (p = {p_value:.2g}): {found}. Other tokens, distances and contexts were not tried."
    )
