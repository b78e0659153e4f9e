"""What an ablation measures: the component at its sites, control components at theirs, in the same way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.ablate_records import AblateRequest, Sign
from spd_tools.experiments.intervention import Changes, Intervention, measure, measure_each
from spd_tools.experiments.like_components import like_components
from spd_tools.experiments.matching import matched_tokens
from spd_tools.experiments.records import Ratio
from spd_tools.experiments.sites import Sites, sites
from spd_tools.experiments.subject import Subject
from spd_tools.keys import ComponentKey

LOGIT_FLOOR = 1e-4
"""Smaller changes of a logit are rounding: they are not listed, and do not tell two tokens apart."""
_LIKE_TOKENS = 16  # tokens of like frequency beside each token asked for
_MIN_TO_HALVE = 4  # sites; each half then has an interval


@dataclass(frozen=True)
class Own:
    """What the component itself does."""

    all: Changes
    """All sites; columns: the tokens asked for."""
    second: Changes | None
    """The second half of the sites; columns: the tokens asked for, raised, lowered. None where sites are too few."""
    raised: NDArray[np.int64]
    """Tokens that it raised in the first half of the sites, most raised first."""
    lowered: NDArray[np.int64]
    raised_alike: int
    """Tokens beyond those that it raised as much there as the last of them."""
    lowered_alike: int


@dataclass(frozen=True)
class Controls:
    """What the control components do."""

    keys: list[ComponentKey]
    kl: NDArray[np.float64]
    """[components] mean over the sites of each."""
    ratio: Ratio
    """Of their densities."""
    logits: dict[int, NDArray[np.float64]]
    """Token -> [components], likewise."""
    like: NDArray[np.int64]
    """[tokens asked for, things] tokens of like frequency."""
    like_ratio: Ratio | None
    """Of their frequencies; None where no tokens were asked for."""

    def on_like(self, place: int) -> NDArray[np.float64]:
        """[components, things] on the tokens that are like the one asked for in that place."""
        return np.stack([self.logits[int(other)] for other in self.like[place]], 1)


def places_of(subject: Subject, request: AblateRequest) -> Sites:
    """Where the component is changed.

    Raises:
        SpdToolsError: when there is no such place.
    """
    rng = subject.rng(request, "sites")
    if request.sign == "any":
        return sites(subject, request.key, request.base, request.n_sites, rng)
    if request.base != "firing":
        raise SpdToolsError("Only firings are told apart by sign; ask for base firing or for sign any.")
    found = _signed(subject, request.key, request.sign, request.n_sites, rng)
    if found is None:
        raise SpdToolsError(
            f"The harvest knows no firing of {request.key} with a {request.sign} activation; ask for the other sign."
        )
    return found


def _signed(subject: Subject, key: ComponentKey, sign: Sign, n: int, rng: np.random.Generator) -> Sites | None:
    """A uniform sample of at most n known firings with activations of a sign; None where there is none."""
    harvest, kind = subject.harvest, subject.harvest.ranking_kind
    log = harvest.activations(key)
    flat, values = np.asarray(log.token), np.asarray(log.values[kind])
    if not len(flat):
        stored = harvest.stored_examples(key, "uniform")
        flat, values = np.asarray(stored.row) * harvest.seq_len + stored.position, stored.at_firing(kind)
    flat = flat[values > 0 if sign == "positive" else values < 0]
    if not len(flat):
        return None
    return Sites(*np.divmod(np.sort(rng.choice(flat, min(n, len(flat)), replace=False)), harvest.seq_len))


def own_changes(
    subject: Subject, request: AblateRequest, places: Sites, intervention: Intervention, asked: NDArray[np.int64]
) -> Own:
    """The component at its sites; what it raises and lowers most is chosen in a random half of them."""
    later = request.mode == "remove"
    n, none = len(places), np.empty(0, np.int64)
    if n < _MIN_TO_HALVE:
        found = measure(subject, request.key, places, intervention, asked, later=later)
        return Own(found, None, none, none, 0, 0)
    mixed = subject.rng(request, "halves").permutation(n)
    one, other = (
        Sites(places.row[half], places.position[half]) for half in (np.sort(mixed[: n // 2]), np.sort(mixed[n // 2 :]))
    )
    first = measure(subject, request.key, one, intervention, asked, later=later)
    raised, raised_alike = _most(first.mean_logits, request.limit)
    lowered, lowered_alike = _most(-first.mean_logits, request.limit)
    columns = np.concatenate([asked, raised, lowered])
    second = measure(subject, request.key, other, intervention, columns, later=later)
    return Own(first.followed_by(second), second, raised, lowered, raised_alike, lowered_alike)


def _most(logits: NDArray[np.float64], limit: int) -> tuple[NDArray[np.int64], int]:
    """Tokens with the largest logits above rounding, largest first, and how many more are as large as the last."""
    order = np.argsort(-logits, kind="stable")[:limit]
    most = order[logits[order] > LOGIT_FLOOR]
    if not len(most):
        return most, 0
    as_large = (logits > LOGIT_FLOOR) & (logits >= logits[most[-1]] - LOGIT_FLOOR)
    return most, int(np.count_nonzero(as_large)) - len(most)


def control_changes(
    subject: Subject, request: AblateRequest, intervention: Intervention, asked: NDArray[np.int64], own: Own
) -> Controls:
    """Every control component at as many sites of its own, chosen and changed in the same way.

    Raises:
        SpdToolsError: for fewer components or tokens than are to be compared with.
    """
    like, like_ratio = _like(subject, request, asked)
    columns = np.unique(np.concatenate([asked, like.reshape(-1), own.raised, own.lowered]))
    rng = subject.rng(request, "controls")
    matched = like_components(subject.harvest, request.key, request.n_controls, request.base, rng)
    arms = [(key, _places_of_control(subject, request, key)) for key in matched.items]
    found = measure_each(subject, arms, intervention, columns)
    logits = np.stack([changes.logits.mean(0, dtype=np.float64) for changes in found], 1)
    kl = np.array([changes.kl.mean() for changes in found])
    by_token = dict(zip(columns.tolist(), logits, strict=True))
    return Controls(matched.items, kl, matched.ratio, by_token, like, like_ratio)


def _places_of_control(subject: Subject, request: AblateRequest, key: ComponentKey) -> Sites:
    rng = subject.rng(request, f"sites of {key}")
    signed = None if request.sign == "any" else _signed(subject, key, request.sign, request.n_sites, rng)
    # Few components fire with both signs; one that never has this sign is taken as it is.
    return signed or sites(subject, key, request.base, request.n_sites, rng)


def _like(subject: Subject, request: AblateRequest, asked: NDArray[np.int64]) -> tuple[NDArray[np.int64], Ratio | None]:
    """[tokens asked for, things] tokens of like frequency, none of them asked for; and how like they are."""
    harvest = subject.harvest
    seen = np.asarray(harvest.vocabulary("input")) > 0
    seen[asked] = False
    k = max(1, min(_LIKE_TOKENS, int(seen.sum())))
    like, ratios = np.empty((len(asked), k), np.int64), list[Ratio]()
    for at, token in enumerate(asked.tolist()):
        rng = subject.rng(request, f"like {token}")
        # They come in ascending order; mixed, one column of several tokens is a random set.
        matched = matched_tokens(harvest, token, k, rng, asked.tolist())
        like[at] = rng.permutation(matched.items)
        ratios.append(matched.ratio)
    if not ratios:
        return like, None
    return like, Ratio(low=min(one.low for one in ratios), high=max(one.high for one in ratios))


def silent_kl(subject: Subject, request: AblateRequest, intervention: Intervention) -> NDArray[np.float64] | None:
    """[n] KL where the component does not fire; None where nothing is known to be silent."""
    harvest = subject.harvest
    if request.base != "firing" or len(harvest.activations(request.key)) == int(harvest.logged_positions.sum()):
        return None
    places = sites(subject, request.key, "silent", request.n_sites, subject.rng(request, "silent sites"))
    return measure(subject, request.key, places, intervention, np.empty(0, np.int64)).kl
