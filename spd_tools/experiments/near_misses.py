"""Near misses: texts almost like the positives, made by the tool before anybody has seen an activation on them.

A label that is true only by accident (right token, wrong reason) agrees with texts that look like its positives; so
half of the negatives are minimal changes of positives: the same tokens elsewhere, and neighbours of the trigger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.matching import matched_tokens
from spd_tools.experiments.subject import MARKS, MarkedText, Subject
from spd_tools.keys import ComponentKey
from spd_tools.store.records import Record

MissKind = Literal["moved", "shuffled", "neighbour", "like frequency", "context"]
"""What was done to a positive: its trigger moved to another place; all tokens in another order; a token of the trigger
replaced by one that the model predicts in like places, or by one of like frequency; a token near the trigger replaced
by one or the other. The trigger is what is marked, or else the token that the component fires on most often."""
MISS_KINDS: tuple[MissKind, ...] = ("moved", "shuffled", "neighbour", "like frequency", "context")

N_CANDIDATES = 30
NEIGHBOURS = 24
"""A replacement is drawn from this many, so that a category of words has some from outside it."""
NEAR = 3
"""A replaced context token stands at most this far before the trigger, where there is one."""
_ATTEMPTS = 8 * N_CANDIDATES  # of each kind


class NearMiss(Record):
    """A candidate; no activation was looked at to make it."""

    text: str
    """To be returned verbatim; marked as its positive is."""
    kind: MissKind
    positive: int
    """Place of the positive that it was made from."""


@dataclass(frozen=True)
class _Source:
    """A positive, and where its trigger stands."""

    tokens: tuple[int, ...]
    start: int
    stop: int
    """The trigger is tokens[start:stop]."""
    is_marked: bool

    def marked(self, tokens: Sequence[int], start: int) -> MarkedText:
        """A variant whose trigger starts at another place."""
        positions = list(range(start, start + self.stop - self.start)) if self.is_marked else []
        return MarkedText(list(tokens), positions)


def near_misses(
    subject: Subject,
    key: ComponentKey,
    positives: Sequence[MarkedText],
    rng: np.random.Generator,
) -> list[NearMiss]:
    """Up to N_CANDIDATES distinct candidates, as many of each kind where possible; the model is not run.

    Every candidate's text has, cut by the tokenizer again, exactly the tokens that were meant.

    Args:
        subject: unembedding and token frequencies are used.
        key: its token statistics say where the trigger of an unmarked positive is.
        positives: tokens and marks.
        rng: draws everything.

    Raises:
        SpdToolsError: when none can be made.
    """
    maker = _Maker(subject, [_source(subject, key, positive) for positive in positives], rng)
    seen = {tuple(positive.tokens) for positive in positives}
    turns: dict[MissKind, Iterator[int]] = {kind: iter(range(_ATTEMPTS)) for kind in MISS_KINDS}
    found: list[NearMiss] = []
    while turns and len(found) < N_CANDIDATES:
        for kind in list(turns):
            for turn in turns[kind]:
                number, variant = maker.variant(kind, turn)
                if variant is None or tuple(variant.tokens) in seen:
                    continue
                seen.add(tuple(variant.tokens))
                text = spelt(subject, variant)
                if text is not None:
                    found.append(NearMiss(text=text, kind=kind, positive=number))
                    break
            else:
                del turns[kind]
    if not found:
        raise SpdToolsError(
            "No near miss can be made from these positives; write longer ones, of words that the tokenizer knows."
        )
    return found[:N_CANDIDATES]


def _source(subject: Subject, key: ComponentKey, positive: MarkedText) -> _Source:
    if positive.marked:
        return _Source(tuple(positive.tokens), positive.marked[0], positive.marked[-1] + 1, True)
    # The harvest says which of the tokens it fires on most often; of several, and of none, the rarest.
    fired, counts = subject.harvest.token_counts(key)
    totals = subject.harvest.vocabulary("input")
    firings = dict(zip(fired.tolist(), counts.tolist(), strict=True))

    def order(place: int) -> tuple[float, int]:
        token = positive.tokens[place]
        total = int(totals[token])
        return -(firings.get(token, 0) / total if total else 0.0), total

    place = min(range(len(positive.tokens)), key=order)
    return _Source(tuple(positive.tokens), place, place + 1, False)


@dataclass
class _Maker:
    """Makes one changed positive at a time."""

    subject: Subject
    sources: list[_Source]
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self._order = self.rng.permutation(len(self.sources)).tolist()
        self._near: dict[int, NDArray[np.int64]] = {}

    def variant(self, kind: MissKind, turn: int) -> tuple[int, MarkedText | None]:
        """(the positive's number, what became of it); None where the change is not possible."""
        number = self._order[turn % len(self._order)]
        source = self.sources[number]
        match kind:
            case "moved":
                return number, self._moved(source)
            case "shuffled":
                return number, self._shuffled(source)
            case "context":
                return number, self._context(source)
            case _:
                at = int(self.rng.integers(source.start, source.stop))
                return number, self._replaced(source, at, neighbour=kind == "neighbour")

    def _moved(self, source: _Source) -> MarkedText | None:
        rest = [*source.tokens[: source.start], *source.tokens[source.stop :]]
        if not rest:
            return None
        at = int(self.rng.integers(len(rest)))
        at += at >= source.start  # anywhere but where it was
        trigger = source.tokens[source.start : source.stop]
        return source.marked([*rest[:at], *trigger, *rest[at:]], at)

    def _shuffled(self, source: _Source) -> MarkedText | None:
        rest = np.array([*source.tokens[: source.start], *source.tokens[source.stop :]], np.int64)
        if len(rest) < 2:
            return None
        rest = self.rng.permutation(rest).tolist()
        at = int(self.rng.integers(len(rest) + 1))
        trigger = source.tokens[source.start : source.stop]
        return source.marked([*rest[:at], *trigger, *rest[at:]], at)

    def _context(self, source: _Source) -> MarkedText | None:
        places = list(range(max(0, source.start - NEAR), source.start))
        places = places or list(range(source.stop, len(source.tokens)))
        if not places:
            return None
        at = places[int(self.rng.integers(len(places)))]
        return self._replaced(source, at, neighbour=bool(self.rng.integers(2)))

    def _replaced(self, source: _Source, at: int, *, neighbour: bool) -> MarkedText:
        token = source.tokens[at]
        if neighbour and self._directions is not None:
            near = self._neighbours(token, self._directions)
            new = int(near[int(self.rng.integers(len(near)))])
        else:
            new = int(matched_tokens(self.subject.harvest, token, 1, self.rng).items[0])
        return source.marked([*source.tokens[:at], new, *source.tokens[at + 1 :]], source.start)

    def _neighbours(self, token: int, directions: NDArray[np.float32]) -> NDArray[np.int64]:
        """Tokens of the harvest with the largest cosine to a token's unembedding column."""
        if token not in self._near:
            cosines = (directions.T @ directions[:, token]).round(4)  # what rounds otherwise elsewhere ties here
            seen = np.asarray(self.subject.harvest.vocabulary("input"))[: len(cosines)] > 0
            seen[token] = False
            cosines[: len(seen)][~seen] = -np.inf
            cosines[len(seen) :] = -np.inf
            self._near[token] = np.argsort(-cosines, kind="stable")[:NEIGHBOURS]
        return self._near[token]

    @cached_property
    def _directions(self) -> NDArray[np.float32] | None:
        """[d_model, vocab] unit columns of the unembedding; its mean column, which no softmax sees, is taken out."""
        unembedding = self.subject.decomposition.unembedding
        if unembedding is None:
            return None
        columns = unembedding.detach().float().cpu().numpy()
        columns = columns - columns.mean(1, keepdims=True)
        norms = np.linalg.norm(columns, axis=0, keepdims=True)
        return np.divide(columns, norms, out=np.zeros_like(columns), where=norms > 0)


def spelt(subject: Subject, meant: MarkedText) -> str | None:
    """A text, marks included, that the tokenizer cuts into exactly these tokens; None where there is none."""
    tokenizer = subject.harvest.tokenizer
    assert tokenizer is not None
    text = tokenizer.decode(meant.tokens, skip_special_tokens=False)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    if encoding.ids != meant.tokens or any(mark in text for mark in MARKS):
        return None
    if not meant.marked:
        return text
    start, stop = encoding.offsets[meant.marked[0]][0], encoding.offsets[meant.marked[-1]][1]
    while start < stop and text[start].isspace():
        start += 1
    marked = f"{text[:start]}{MARKS[0]}{text[start:stop]}{MARKS[1]}{text[stop:]}"
    try:
        found = subject.marked_tokens_of(marked)
    except SpdToolsError:  # a token that is nothing but a space, or a part of a character
        return None
    return marked if found == meant else None
