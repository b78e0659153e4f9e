"""The planted components of the second block, which also read what the first one wrote."""

from __future__ import annotations

from spd_tools.decompositions.planted.conditions import (
    BIG,
    Echo,
    Inhibited,
    Note,
    Noted,
)
from spd_tools.decompositions.planted.drafts import (
    FIVE,
    FOUR,
    ONE,
    SEVEN,
    Draft,
    bigram_draft,
    conjunction_draft,
    gate_draft,
    ladder,
    lowers,
    raises,
    random_draft,
    same,
    tail_draft,
    token_draft,
)
from spd_tools.decompositions.planted.vocabulary import Cast


def second_mlp(cast: Cast, notes: dict[str, Note]) -> list[Draft]:
    """Components that also read what earlier ones wrote."""
    return [*_readers(cast, notes), *_late_tokens(cast), *_late_contexts(cast)]


def _readers(cast: Cast, notes: dict[str, Note]) -> list[Draft]:
    verbs, acts, nouns = cast["intransitive"], cast["transitive"], cast["noun4"]
    negation, quality = cast.phrase(cast["negation"]), cast.phrase(cast["quality"])
    return [
        Draft(
            "negated-verb",
            "reader",
            Noted(cast.tokens(verbs), notes["negated"]),
            f"fires on {cast.phrase(verbs)} within three tokens after {negation}, told by recent-negation",
            (*verbs, *cast["negation"]),
            raises(cast["adverb"][2:], FOUR),
        ),
        Draft(
            "plain-act",
            "reader",
            Inhibited({cast.token(word): 1.0 for word in acts}, notes["negated"], BIG),
            f"fires on {cast.phrase(acts)} unless recent-negation reports {negation}",
            (*acts, *cast["negation"]),
            raises(cast["determiner"], FOUR),
        ),
        Draft(
            "after-duplicates",
            "reader",
            Echo(notes["seen"], 1),
            f"fires on the token after the duplicate pair fired (on {cast.phrase(cast['noun2'][:4])})",
            cast["noun2"][:4],
            raises(cast["determiner"], FOUR),
        ),
        Draft(
            "bare-noun",
            "reader",
            Inhibited({cast.token(word): 2.0 for word in nouns}, notes["described"], 3.0),
            f"fires on {cast.phrase(nouns)} (activation 2), weaker (0.5) right after {quality}, told by after-quality",
            (*nouns, *cast["quality"]),
            raises(acts[4:], FIVE),
        ),
    ]


def _late_tokens(cast: Cast) -> list[Draft]:
    verbs, acts, place = cast["intransitive"], cast["transitive"], cast["place"]
    times = same(cast["time"], 1.25)
    return [
        tail_draft(cast, "late-tail-marker", ladder(cast["noun5"], 0.5, 0.125, levels=5), 6.0, raises(verbs, FIVE)),
        token_draft(cast, "place", ladder(place, 0.5, 0.125), raises(("!", ".", ",", ";"), FOUR), kind="category"),
        token_draft(cast, "colour", ladder(cast["colour"], 1.0, 0.25), raises(cast["noun0"], SEVEN), kind="category"),
        token_draft(cast, "because", {"because": 2.0}, raises(cast["weather"], FOUR)),
        token_draft(cast, "sentence-end", {".": 1.0, "!": 1.5}, raises(cast["city"], FOUR)),
        token_draft(cast, "person", {cast["person"][1]: 2.25}, raises(acts[6:], FOUR)),
        # Fires with the duplicate pair but writes elsewhere: firings alone do not make a duplicate.
        token_draft(cast, "lookalike", ladder(cast["noun2"][:4], 1.0, 0.25), raises(cast["connective"], FOUR)),
        token_draft(cast, "time-duplicate-a", times, raises(cast["person"][4:], FOUR), kind="duplicate"),
        token_draft(cast, "time-duplicate-b", times, raises(cast["person"][4:], FOUR), kind="duplicate"),
        token_draft(
            cast,
            "suppress-cities",
            same(cast["preposition"], 0.5),
            lowers((*cast["city"][5:], "never"), FOUR),
            kind="suppressor",
        ),
        token_draft(cast, "dead-whisper", same(cast["noun3"], 0.125), raises(verbs[9:], ONE), kind="dead"),
    ]


def _late_contexts(cast: Cast) -> list[Draft]:
    return [
        bigram_draft(cast, "bigram-number", cast["number"], cast["noun2"], raises(cast["preposition"][2:], FOUR)),
        bigram_draft(cast, "bigram-connective", ("but", "because"), cast["determiner"], raises(cast["quality"], SEVEN)),
        gate_draft(
            cast, "gate-determiner", cast["place"], cast["determiner"], raises(cast["pause"] + ("and", "but"), FOUR)
        ),
        conjunction_draft(
            cast, "negated-question", cast["question"], cast["negation"], raises(cast["transitive"], FOUR)
        ),
        random_draft(cast, "late-random", 3, raises(cast["time"], FOUR)),
    ]
