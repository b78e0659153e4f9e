"""Generate and test: does a component fire where its label says, on texts written from the label?

Two steps, as only the labeller knows what the label says. Without near misses the tool proposes some, made from the
positives without running the model; the labeller returns those of which the label says that they do not fire, before
seeing any activation; then everything is run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.contrasts import said
from spd_tools.experiments.near_misses import NearMiss, near_misses
from spd_tools.experiments.records import Estimate, Request, Result
from spd_tools.experiments.statistics import mean_of_shares, wilson
from spd_tools.experiments.subject import MarkedText, Subject, by_length
from spd_tools.keys import ComponentKey
from spd_tools.store.records import Record
from spd_tools.wording import plural

Group = Literal["positive", "negative", "near miss"]
Status = Literal["choose near misses", "tested"]

CHANCE = Estimate(value=0.5, low=0.5, high=0.5, n=0)
"""What a label that knows nothing scores."""
COPIED = 5
"""From this many tokens on, a text that stands in the harvest is a copy and no accident."""
COPIED_RUN = 8
"""So many tokens in succession that stand in the harvest make a longer text a copy."""
_PRIME = np.uint64(0x100000001B3)
_AT_ONCE = 1 << 20  # tokens
BLIND_LIMIT = 0.55
"""Texts on which a component that fires at random can score more than this are refused."""
_DENSITIES = np.geomspace(1e-4, 0.9, 60)  # of such components


class GenerateAndTestRequest(Request):
    """Texts in which the label says that the component fires, and texts in which it says that it does not."""

    experiment: Literal["generate_and_test"] = "generate_and_test"
    label: str | None = Field(
        default=None,
        min_length=1,
        max_length=20_000,
        description="input view that the texts were written from; only a label with these words can rest on the test",
    )
    """None only in requests from before there was this field; they keep their ids."""
    positives: list[str] = Field(
        min_length=1,
        max_length=128,
        description="texts in which the label says it fires; «» may enclose the word on which it does",
    )
    negatives: list[str] = Field(
        default=[],
        max_length=128,
        description="texts in which it fires nowhere (or, with «», not on the enclosed words)",
    )
    near_misses: list[str] = Field(
        default=[],
        max_length=128,
        description="of the proposed candidates, verbatim, all of which the label says that they do not fire; "
        "empty: propose some",
    )

    @field_validator("label")
    @classmethod
    def _says_something(cls, label: str | None) -> str | None:
        if label is not None and not label.strip():
            raise ValueError("it is blank")
        return label

    @model_serializer(mode="wrap")
    def _as_it_was_asked(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in fields(self).items() if name != "label" or value is not None}


class TestedText(Record):
    """One text and what the component did."""

    text: str
    group: Group
    token_texts: list[str | None]
    judged_positions: list[int]
    """The marked ones, or all."""
    firing_positions: list[int]
    """Wherever it fires, judged or not."""
    fired: bool
    """At one of the judged positions at least."""
    as_label_says: bool
    max_gating: float
    """Largest gating activation at the judged positions."""
    max_ranking: float
    """Ranking activation of the largest absolute value at the judged positions, with its sign."""


class Confusion(Record):
    """Tested texts by what the label says and what the component did."""

    true_positives: int
    false_negatives: int
    true_negatives: int
    false_positives: int


class GenerateAndTestResult(Result):
    """Balanced accuracy of a label: the mean of the share of positives that fire and that of negatives that do not.

    ``effect`` is it, with the MOVER interval of two Wilson intervals; ``control`` is chance. ``p_value``: Fisher's
    exact test of firing against group. A near miss shares tokens with its positive; where that makes both fire or both
    be silent, interval and p-value err on the safe side.
    """

    request: GenerateAndTestRequest
    status: Status
    candidates: list[NearMiss]
    """Near misses to choose from; the same for the same positives, component and seed."""
    n_positive: int
    """Tested texts in which it should fire; 0 before near misses are chosen."""
    n_negative: int
    """Tested texts in which it should not fire, near misses among them."""
    n_near_misses: int
    confusion: Confusion | None
    sensitivity: Estimate | None
    """Share of positives that fire."""
    specificity: Estimate | None
    """Share of negatives and near misses that do not."""
    near_miss_specificity: Estimate | None
    """The same of near misses alone."""
    texts: list[TestedText]


def only_proposes(result: Result) -> bool:
    """Whether this is but a proposal of near misses: nothing was tested, and nothing is stored under its id."""
    return isinstance(result, GenerateAndTestResult) and result.status != "tested"


@dataclass(frozen=True)
class _Given:
    """A text of the request."""

    text: str
    group: Group
    read: MarkedText

    @property
    def judged(self) -> list[int]:
        return self.read.marked or list(range(len(self.read.tokens)))


def generate_and_test(subject: Subject, request: GenerateAndTestRequest) -> GenerateAndTestResult:
    """Propose near misses, or test a label on positives, negatives and the chosen near misses.

    Raises:
        SpdToolsError: for an unknown component, a text that is empty, given twice or copied from the harvest, a near
            miss that was not proposed, and texts whose lengths alone tell positives from negatives.
    """
    given = _read(subject, request)
    positives = [text.read for text in given if text.group == "positive"]
    candidates = near_misses(subject, request.key, positives, subject.rng(request, "near misses"))
    copies = _copied(subject, [subject.marked_tokens_of(candidate.text).tokens for candidate in candidates])
    candidates = [candidate for number, candidate in enumerate(candidates) if number not in copies]
    if not request.near_misses:
        return _proposal(subject, request, candidates)
    proposed = {candidate.text for candidate in candidates}
    for text in request.near_misses:
        if text not in proposed:
            raise SpdToolsError(
                f"{_short(text)} is no near miss that was proposed for these positives and this seed; return texts of "
                "the proposal as they are."
            )
    _check_lengths(given)
    return _tested(subject, request, candidates, _test(subject, request.key, given))


# --- what was given ---------------------------------------------------------------------------------------------------


def _read(subject: Subject, request: GenerateAndTestRequest) -> list[_Given]:
    groups: list[tuple[Group, list[str]]] = [
        ("positive", request.positives),
        ("negative", request.negatives),
        ("near miss", request.near_misses),
    ]
    given: list[_Given] = []
    seen: set[tuple[int, ...]] = set()
    for group, texts in groups:
        for text in texts:
            read = subject.marked_tokens_of(text)
            tokens = tuple(read.tokens)
            if tokens in seen:
                raise SpdToolsError(f"{_short(text)} is given twice; every text counts once, so write another.")
            seen.add(tokens)
            given.append(_Given(text, group, read))
    copies = _copied(subject, [text.read.tokens for text in given if text.group != "near miss"])
    if copies:
        raise SpdToolsError(
            f"{_short(given[min(copies)].text)} stands in the harvested rows, or much of it; write a text of your own."
        )
    return given


def _copied(subject: Subject, texts: Sequence[Sequence[int]]) -> set[int]:
    """Numbers of the texts that stand in the harvest: COPIED_RUN of their tokens in succession (all of a shorter one).

    Who has seen the harvested rows knows where the component fires in them.
    """
    harvest = subject.harvest
    found: set[int] = set()
    for length in range(COPIED, COPIED_RUN + 1):
        of_length = [n for n, text in enumerate(texts) if min(len(text), COPIED_RUN) == length]
        runs = {n: _runs(np.asarray(texts[n])[None], length).ravel() for n in of_length}
        if not runs or harvest.seq_len < length:
            continue
        wanted = np.unique(np.concatenate(list(runs.values())))
        seen = [np.empty(0, np.uint64)]
        step = max(1, _AT_ONCE // harvest.seq_len)
        for start in range(0, harvest.n_rows, step):
            there = _runs(harvest.tokens()[start : start + step], length)
            seen.append(np.unique(there[np.isin(there, wanted)]))
        known = np.unique(np.concatenate(seen))
        found |= {n for n, of_text in runs.items() if np.isin(of_text, known).any()}
    return found


def _runs(rows: NDArray[Any], length: int) -> NDArray[np.uint64]:
    """[rows, seq - length + 1] hashes of all runs of so many tokens."""
    n = rows.shape[1] - length + 1
    hashes = np.zeros((len(rows), n), np.uint64)
    for at in range(length):
        hashes = hashes * _PRIME + rows[:, at : at + n].astype(np.uint64) + np.uint64(1)
    return hashes


def blind_score(positives: Sequence[int], negatives: Sequence[int]) -> float:
    """The largest expected balanced accuracy of a component that fires at random, over all densities.

    Args:
        positives: judged tokens of each positive.
        negatives: the same of each negative.
    """
    silent = [((1 - _DENSITIES[:, None]) ** np.asarray(judged)).mean(1) for judged in (positives, negatives)]
    return float((0.5 + (silent[1] - silent[0]) / 2).max())


def _check_lengths(given: list[_Given]) -> None:
    judged = [
        [len(text.judged) for text in given if (text.group == "positive") is positive] for positive in (True, False)
    ]
    score = blind_score(*judged)
    if score > BLIND_LIMIT:
        means = [sum(counts) / len(counts) for counts in judged]
        raise SpdToolsError(
            f"A component that fires at random would score up to {score:.2f} here, as positives are judged at "
            f"{means[0]:.1f} tokens on average and negatives at {means[1]:.1f}; put «» around the words on which it "
            "should fire, or write negatives as long as the positives."
        )


# --- what came out ----------------------------------------------------------------------------------------------------


def _test(subject: Subject, key: ComponentKey, given: list[_Given]) -> list[TestedText]:
    tested: dict[int, TestedText] = {}
    for numbers, tokens in by_length([text.read.tokens for text in given]):
        traces = subject.traces(tokens, [key])
        for at, number in enumerate(numbers):
            text = given[number]
            fires, ranking = traces.fires[at, :, 0], traces.ranking[at, text.judged, 0]
            fired = bool(fires[text.judged].any())
            tested[number] = TestedText(
                text=text.text,
                group=text.group,
                token_texts=subject.text_of(text.read.tokens),
                judged_positions=text.judged,
                firing_positions=fires.nonzero()[0].tolist(),
                fired=fired,
                as_label_says=fired == (text.group == "positive"),
                max_gating=float(traces.gating[at, text.judged, 0].max()),
                max_ranking=float(ranking[np.abs(ranking).argmax()]),
            )
    return [tested[number] for number in range(len(given))]


def _proposal(subject: Subject, request: GenerateAndTestRequest, candidates: list[NearMiss]) -> GenerateAndTestResult:
    return GenerateAndTestResult(
        **subject.identity(request),
        kind="structural",
        population=f"{plural(len(candidates), 'near miss')} made from {plural(len(request.positives), 'positive')}",
        n=0,
        effect=None,
        control=None,
        p_value=None,
        summary=f"Nothing was run yet: of these {plural(len(candidates), 'candidate')} return, verbatim as near_misses "
        "and with everything else as it was, all of which the label says that they do not fire; for other candidates "
        "change the seed or the positives.",
        request=request,
        status="choose near misses",
        candidates=candidates,
        n_positive=0,
        n_negative=0,
        n_near_misses=0,
        confusion=None,
        sensitivity=None,
        specificity=None,
        near_miss_specificity=None,
        texts=[],
    )


def _tested(
    subject: Subject, request: GenerateAndTestRequest, candidates: list[NearMiss], texts: list[TestedText]
) -> GenerateAndTestResult:
    positives = [text.fired for text in texts if text.group == "positive"]
    negatives = [text.fired for text in texts if text.group != "positive"]
    misses = [text.fired for text in texts if text.group == "near miss"]
    sensitivity = wilson(sum(positives), len(positives))
    specificity = wilson(len(negatives) - sum(negatives), len(negatives))
    assert sensitivity is not None
    assert specificity is not None
    effect = mean_of_shares(sensitivity, specificity)
    return GenerateAndTestResult(
        **subject.identity(request),
        kind="counterfactual",
        population=f"{len(texts)} texts written from the label{_quoted(request.label)}, {len(misses)} of them near "
        "misses",
        n=len(texts),
        effect=effect,
        control=CHANCE,
        p_value=fisher_exact(sum(positives), len(positives), sum(negatives), len(negatives)),
        summary=f"{request.key} fires in {sum(positives)} of {len(positives)} texts where the label says so, and in "
        f"{sum(negatives)} of {len(negatives)} where it says not (near misses: {sum(misses)} of {len(misses)}): "
        f"balanced accuracy {said(effect)}, chance 0.5. This is about when it fires, not about what it does.",
        request=request,
        status="tested",
        candidates=candidates,
        n_positive=len(positives),
        n_negative=len(negatives),
        n_near_misses=len(misses),
        confusion=Confusion(
            true_positives=sum(positives),
            false_negatives=len(positives) - sum(positives),
            true_negatives=len(negatives) - sum(negatives),
            false_positives=sum(negatives),
        ),
        sensitivity=sensitivity,
        specificity=specificity,
        near_miss_specificity=wilson(len(misses) - sum(misses), len(misses)),
        texts=texts,
    )


def fisher_exact(fired_a: int, n_a: int, fired_b: int, n_b: int) -> float:
    """Two-sided p-value of Fisher's exact test: the tables with these margins that are no more likely (integers)."""
    fired = fired_a + fired_b

    def ways(first: int) -> int:
        return math.comb(n_a, first) * math.comb(n_b, fired - first)

    possible = [ways(first) for first in range(max(0, fired - n_b), min(n_a, fired) + 1)]
    observed = ways(fired_a)
    return sum(count for count in possible if count <= observed) / sum(possible)


def _quoted(label: str | None) -> str:
    return "" if label is None else f" {_short(label, 200)}"


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
