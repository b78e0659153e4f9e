"""The planted model without its components: which category of words follows which."""

from __future__ import annotations

import math

import numpy as np

from spd_tools.decompositions.planted.vocabulary import NOUNS, Cast

_NOUN = "noun"
"""Stands for all noun categories together."""

_FOLLOWERS = {
    "stop": "determiner 8, number 3, person 4, weather 3, day 2, time 2, question 2, city 2",
    "pause": "connective 3, determiner 4, person 2, weather 1, adverb 1",
    "determiner": "noun 10, colour 4, quality 4, place 3",
    "number": "noun 8, colour 3",
    "colour": "noun 9, quality 1",
    "quality": "noun 8, colour 1, place 1",
    _NOUN: "intransitive 4, transitive 4, preposition 3, stop 2, pause 2, negation 2, connective 1",
    "intransitive": "preposition 4, adverb 3, stop 3, pause 1, connective 1",
    "transitive": "determiner 5, number 2, person 1, weather 1, city 1, colour 1",
    "preposition": "determiner 5, place 2, city 2, number 1",
    "place": "stop 4, connective 1, pause 2, intransitive 1, preposition 1",
    "city": "city_end 1",
    "city_end": "stop 3, intransitive 1, pause 2, connective 1, preposition 1",
    "person": "intransitive 4, transitive 4, negation 2, connective 1, preposition 1",
    "weather": "intransitive 3, stop 2, negation 2, connective 1, pause 1, preposition 1",
    "negation": "intransitive 4, transitive 4, adverb 1",
    "connective": "determiner 4, person 2, number 1, weather 2, negation 1",
    "adverb": "stop 3, pause 1, connective 1, preposition 1",
    "day": "pause 1, determiner 2, person 2, weather 1",
    "time": "pause 1, determiner 1, person 2, weather 1",
    "question": "intransitive 1, transitive 1, negation 1",
}

OUTSIDE = -9.0
"""Logit of a word that the grammar does not expect; of ``<unk>``, twice that."""
RARE = 0.5
"""How much lower the logit of a noun category's last member is."""
FIRST_CONTEXT = "."
"""The first token of a row is drawn as if this came before it."""


def _dyadic(value: float) -> float:
    """Multiples of 1/16: sums of logits stay exact in float32, in any order."""
    return round(16 * value) / 16


def _category_logits(category: str) -> dict[str, float]:
    """Follower category -> log of its share."""
    followers = {name: int(weight) for name, weight in (part.split() for part in _FOLLOWERS[category].split(", "))}
    total = sum(followers.values())
    logits = {name: math.log(weight / total) for name, weight in followers.items() if name != _NOUN}
    if _NOUN in followers:
        share = followers[_NOUN] / len(NOUNS) / total
        logits |= {f"{_NOUN}{at}": math.log(share) for at in range(len(NOUNS))}
    return logits


def bigram_logits(cast: Cast) -> np.ndarray:
    """[vocab, vocab] float32: logits of the next word given the word, multiples of 1/16."""
    logits = np.full((len(cast.words), len(cast.words)), OUTSIDE, dtype=np.float32)
    for category, members in cast.members.items():
        rows = [cast.token(word) for word in members]
        for follower, share in _category_logits(category.rstrip("0123456789")).items():
            words = cast[follower]
            for role, word in enumerate(words):
                rare = RARE if follower.startswith(_NOUN) and role == len(words) - 1 else 0.0
                logits[rows, cast.token(word)] = _dyadic(share - math.log(len(words)) - role / 8 - rare)
    logits[0] = logits[cast.token(FIRST_CONTEXT)]
    logits[:, 0] = 2 * OUTSIDE
    return logits
