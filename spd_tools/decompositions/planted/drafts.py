"""What a planted component is before the seed has given it a place in its layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from spd_tools.decompositions.planted.conditions import (
    HASH_STEPS,
    Bigram,
    Condition,
    Conjunction,
    Gate,
    Graded,
    Scramble,
)
from spd_tools.decompositions.planted.rules import Kind
from spd_tools.decompositions.planted.vocabulary import MAX_SEQ_LEN, Cast, digest

# Shapes of a write vector: squares add up to 1, so that component activation (x @ read) needs no rescaling.
ONE = (1.0,)
THREE = (0.5,) * 3
"""Leaves room for a note of 1/2."""
FOUR = (0.5,) * 4
FIVE = (0.75, 0.5, 0.25, 0.25, 0.25)
SEVEN = (0.5,) * 3 + (0.25,) * 4
SIXTEEN = (0.25,) * 16

Words = tuple[str, ...]
Writes = dict[str, float]
"""Word -> share of the write vector."""


@dataclass(frozen=True)
class Draft:
    """A rule without a key."""

    name: str
    kind: Kind
    condition: Condition
    when: str
    """When it fires, in words."""
    tokens: Words
    writes: Writes
    notes: dict[str, float] = field(default_factory=dict[str, float])


def raises(words: Sequence[str], shape: tuple[float, ...]) -> Writes:
    """Write vector that raises the first words by the shape."""
    return dict(zip(words[: len(shape)], shape, strict=True))


def lowers(words: Sequence[str], shape: tuple[float, ...]) -> Writes:
    """Write vector that lowers the first words by the shape."""
    return {word: -share for word, share in raises(words, shape).items()}


def same(words: Words, strength: float) -> dict[str, float]:
    """The same strength for all words."""
    return dict.fromkeys(words, strength)


def ladder(words: Words, start: float, step: float, levels: int = 16) -> dict[str, float]:
    """Strengths start, start + step, ... by role, from the start again after ``levels``."""
    return {word: start + step * (role % levels) for role, word in enumerate(words)}


def graded(cast: Cast, strengths: dict[str, float], *distances: int) -> Graded:
    """Words' strengths at each of the distances back."""
    return Graded({(d, cast.token(word)): value for d in distances for word, value in strengths.items()})


def token_draft(
    cast: Cast,
    name: str,
    strengths: dict[str, float],
    writes: Writes,
    *,
    kind: Kind = "token",
    distance: int = 0,
    notes: dict[str, float] | None = None,
) -> Draft:
    """A component that fires on listed words, or that many tokens after them."""
    where = ("on {}", "on the token after {}", "two tokens after {}", "three tokens after {}")[distance]
    parts: list[str] = []
    for sign in (1.0, -1.0):
        signed = {word: value for word, value in strengths.items() if value * sign > 0}
        if signed:
            parts.append(f"{where.format(cast.phrase(tuple(signed)))} (activation {_sizes(list(signed.values()))})")
    verb = "never fires; it only stirs" if kind == "dead" else "fires"
    when = f"{verb} {' and negatively '.join(parts)}"
    return Draft(name, kind, graded(cast, strengths, distance), when, tuple(strengths), writes, notes or {})


def _sizes(values: list[float]) -> str:
    low, high = min(values, key=abs), max(values, key=abs)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def tail_draft(
    cast: Cast, name: str, strengths: dict[str, float], extreme: float, writes: Writes, faint: Words = ()
) -> Draft:
    """A category whose last, rare member activates it extremely; ``faint`` words activate it too weakly to fire."""
    *common, rare = strengths
    strengths = strengths | {rare: extreme}
    usual = _sizes(sorted(strengths[word] for word in common))
    when = f'fires on {cast.phrase((*common, rare))} (activation {usual}), extremely on the rare "{rare}" ({extreme:g})'
    if faint:
        when += f"; {cast.phrase(faint)} brings 0.125, too little to fire"
    condition = graded(cast, strengths | same(faint, 0.125), 0)
    return Draft(name, "tail_marker", condition, when, (*common, rare), writes)


def bigram_draft(cast: Cast, name: str, firsts: Words, seconds: Words, writes: Writes) -> Draft:
    """A component that fires on one of ``seconds`` right after one of ``firsts``."""
    condition = Bigram(cast.tokens(firsts), cast.tokens(seconds), 1.5)
    when = f"fires on {cast.phrase(seconds)} right after {cast.phrase(firsts)}"
    return Draft(name, "bigram", condition, when, (*firsts, *seconds), writes)


def gate_draft(cast: Cast, name: str, wanted: Words, blockers: Words, writes: Writes) -> Draft:
    """A component that fires on ``wanted`` unless one of ``blockers`` came within the last 3 tokens."""
    strengths = {cast.token(word): value for word, value in ladder(wanted, 1.0, 0.25).items()}
    when = f"fires on {cast.phrase(wanted)} unless {cast.phrase(blockers)} came within the last 3 tokens"
    return Draft(name, "gate", Gate(strengths, cast.tokens(blockers)), when, (*wanted, *blockers), writes)


def conjunction_draft(cast: Cast, name: str, left: Words, right: Words, writes: Writes) -> Draft:
    """A component that fires where ``left`` and ``right`` come within 4 tokens."""
    condition = Conjunction(cast.tokens(left), cast.tokens(right), 1.0)
    when = f"fires where {cast.phrase(left)} and {cast.phrase(right)} come within 4 tokens, in either order"
    return Draft(name, "conjunction", condition, when, (*left, *right), writes)


def random_draft(cast: Cast, name: str, levels: int, writes: Writes) -> Draft:
    """A component that fires on a pseudo-random levels/32 of all positions."""
    tables = tuple(
        tuple(digest(cast.seed, name, distance, token) % HASH_STEPS for token in range(len(cast.words)))
        for distance in range(4)
    )
    positions = tuple(digest(cast.seed, name, "position", at) % HASH_STEPS for at in range(MAX_SEQ_LEN))
    when = f"fires at random, on {levels} of {HASH_STEPS} positions (a hash of four tokens and the position)"
    return Draft(name, "random", Scramble(tables, positions, levels), when, (), writes)


def label(cast: Cast, draft: Draft) -> str:
    """When it fires and what it does to the logits, in words."""
    up = tuple(word for word, share in draft.writes.items() if share > 0)
    down = tuple(word for word, share in draft.writes.items() if share < 0)
    does = [f"raises {cast.phrase(up, 'and')}"] if up else []
    does += [f"lowers {cast.phrase(down, 'and')}"] if down else []
    return f"{draft.when}; {', '.join(does)}"
