"""The planted components of the first block: attention and MLP."""

from __future__ import annotations

from spd_tools.decompositions.planted.conditions import (
    After,
    Before,
    Constant,
    FirstPosition,
    Graded,
    Impossible,
)
from spd_tools.decompositions.planted.drafts import (
    FIVE,
    FOUR,
    ONE,
    SEVEN,
    SIXTEEN,
    THREE,
    Draft,
    bigram_draft,
    conjunction_draft,
    gate_draft,
    graded,
    ladder,
    lowers,
    raises,
    random_draft,
    same,
    tail_draft,
    token_draft,
)
from spd_tools.decompositions.planted.rules import Kind
from spd_tools.decompositions.planted.vocabulary import Cast


def attention(cast: Cast) -> list[Draft]:
    """Components that look one to three tokens back."""
    verbs, acts, person, days = cast["intransitive"], cast["transitive"], cast["person"], cast["day"]
    fading = {(d, cast.token(word)): s for d, s in ((1, 2.0), (2, 1.0), (3, 0.5)) for word in person}
    mood = same(cast["quality"][:4], 1.0) | same(cast["quality"][4:], -1.0)
    marks = (*cast["pause"], *cast["stop"])

    def after(
        name: str, strengths: dict[str, float], writes: dict[str, float], d: int = 1, kind: Kind = "previous"
    ) -> Draft:
        return token_draft(cast, name, strengths, writes, kind=kind, distance=d)

    return [
        after("after-the", {"the": 0.5}, raises(verbs, SEVEN)),
        after("after-number", ladder(cast["number"], 1.0, 0.25), raises(cast["preposition"], FOUR)),
        after("after-person", {person[0]: 1.5}, raises(cast["adverb"], FOUR)),
        after("two-after-weather", same(cast["weather"], 1.0), raises(marks, FOUR), d=2),
        after("three-after-question", same(cast["question"], 1.5), raises(("?",), ONE), d=3),
        after("after-city", same(cast["city"][:1], 2.0) | same(cast["city"][1:], 1.0), raises(verbs[3:], FOUR)),
        after("two-after-colour", {cast["colour"][0]: 1.25}, raises(acts, ONE), d=2),
        after("mood", mood, raises(verbs, (0.5, 0.5)) | lowers(acts, (0.5, 0.5)), kind="polarity"),
        after("suppress-after-and", {"and": 1.0}, lowers(marks, FOUR), kind="suppressor"),
        after("dead-whisper-day", same(days, 0.125), raises(cast["time"], ONE), kind="dead"),
        Draft(
            "recent-person",
            "previous",
            Graded(fading),
            f"fires within three tokens after {cast.phrase(person)} (activation 2, then 1, then 0.5)",
            person,
            raises(cast["connective"], FOUR),
        ),
        Draft(
            "recent-negation",
            "previous",
            graded(cast, same(cast["negation"], 1.0), 1, 2, 3),
            f"fires within three tokens after {cast.phrase(cast['negation'])}, stronger after both",
            cast["negation"],
            raises(cast["adverb"], THREE),
            {"negated": 0.5},
        ),
    ]


def first_mlp(cast: Cast) -> list[Draft]:
    """Components that read the token, its neighbours and the position."""
    return [*_tokens(cast), *_contexts(cast), *_positions(cast), *_odd_ones(cast)]


def _tokens(cast: Cast) -> list[Draft]:
    verbs, acts, prepositions = cast["intransitive"], cast["transitive"], cast["preposition"]
    week = dict(zip(cast["day"], (1.0, 1.0, 1.25, 1.25, 1.5, -1.5, -2.0), strict=True))
    pair = ladder(cast["noun2"][:4], 1.0, 0.25)
    seen = {"seen": 0.5}
    cities = [
        token_draft(cast, f"city-{at}", {first: strength}, raises((second,), ONE))
        for at, ((first, second), strength) in enumerate(zip(cast.cities, (2.0, 2.0, 1.5, 1.25, 1.0), strict=False))
    ]
    return [
        *cities,
        token_draft(cast, "why", {"why": 2.0}, raises(cast["negation"] + acts, (0.75, 0.5, 0.25, 0.25, 0.25))),
        token_draft(cast, "strong-token", {cast["noun5"][0]: 3.0}, raises(acts[3:], FOUR)),
        token_draft(cast, "weak-token", {cast["noun5"][1]: 0.25}, raises(verbs[5:], ONE)),
        tail_draft(
            cast,
            "tail-marker",
            ladder(cast["noun0"], 1.0, 0.25, levels=5),
            10.0,
            raises(verbs + acts, SIXTEEN),
            faint=cast["noun1"],
        ),
        token_draft(cast, "category", ladder(cast["noun1"], 1.0, 0.125), raises(acts, SEVEN), kind="category"),
        token_draft(cast, "duplicate-a", pair, raises(prepositions, THREE), kind="duplicate", notes=seen),
        token_draft(cast, "duplicate-b", pair, raises(prepositions, THREE), kind="duplicate", notes=seen),
        token_draft(cast, "weekday", week, raises(cast["person"], FIVE), kind="polarity"),
        token_draft(cast, "suppress-stops", {",": 1.5}, lowers((*cast["stop"], ";"), FOUR), kind="suppressor"),
        token_draft(
            cast,
            "after-quality",
            same(cast["quality"], 1.0),
            raises(prepositions[3:], THREE),
            kind="previous",
            distance=1,
            notes={"described": 0.5},
        ),
    ]


def _contexts(cast: Cast) -> list[Draft]:
    marks = (*cast["pause"], *cast["stop"])
    verbs, acts = cast["intransitive"], cast["transitive"]
    return [
        bigram_draft(cast, "bigram-city-0", cast["city"][:1], cast["city_end"][:1], raises(marks, FOUR)),
        bigram_draft(cast, "bigram-city-1", cast["city"][1:2], cast["city_end"][1:2], raises(cast["connective"], FOUR)),
        bigram_draft(cast, "bigram-the", ("the",), cast["noun1"][:6], raises(acts[2:], FIVE)),
        gate_draft(cast, "gate-colour", cast["noun3"][:5], cast["colour"], raises(marks, FOUR)),
        gate_draft(cast, "gate-connective", cast["weather"][:4], cast["connective"], raises(verbs[5:], FOUR)),
        conjunction_draft(cast, "person-place", cast["person"], cast["place"], raises(cast["time"], FOUR)),
        conjunction_draft(cast, "number-noun", cast["number"][:4], cast["noun4"], raises(verbs[1:], SEVEN)),
    ]


def _positions(cast: Cast) -> list[Draft]:
    function_words = cast["adverb"] + cast["preposition"] + cast["connective"]
    return [
        Draft(
            "first-position",
            "position",
            FirstPosition(1.0),
            "fires on the first token of a row, whatever it is",
            (),
            raises(cast["colour"], FOUR),
        ),
        Draft(
            "late-position",
            "position",
            After(40),
            "fires from position 42 of a row on, whatever the token, stronger towards the end",
            (),
            raises(function_words, SIXTEEN),
        ),
        Draft(
            "early-stop",
            "position",
            Before(cast.tokens(cast["stop"]), 16),
            f"fires on {cast.phrase(cast['stop'])} before position 15, strongest at the start of a row",
            cast["stop"],
            raises(cast["question"], FOUR),
        ),
    ]


def _odd_ones(cast: Cast) -> list[Draft]:
    one, other = cast["determiner"][:2]
    return [
        Draft("always", "always", Constant(0.5), "always on", (), raises(cast["person"] + cast["colour"], SIXTEEN)),
        Draft(
            "dead-impossible",
            "dead",
            Impossible(cast.token(one), cast.token(other)),
            "never active: it wants two different tokens in one place",
            (),
            raises(cast["place"], ONE),
        ),
        random_draft(cast, "random", 4, raises(cast["day"], SEVEN)),
        random_draft(cast, "random-rare", 1, raises(cast["weather"], FIVE)),
    ]
