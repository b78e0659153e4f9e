"""How words inflect, and the tokens that an inflected word is made of."""

from __future__ import annotations

from spd_tools.stories.lexicon import PLURALS, VERBS

SUFFIXES = ("s", "es", "d", "ed", "'s")
"""Tokens that only ever follow a stem."""

_HISSING = ("s", "x", "ch", "sh")
_SILENT_H = ("honest", "hour")
_LIKE_YOU = ("unicorn", "uniform")

Pieces = tuple[str, ...]
"""A word as tokens: itself, or stem and suffix."""


def plural(noun: str) -> Pieces:
    """Two or more of it; a regular plural is a stem and a suffix."""
    if noun in PLURALS:
        return (PLURALS[noun],)
    return noun, "es" if noun.endswith((*_HISSING, "tomato", "potato", "mango")) else "s"


def present(verb: str, *, many: bool) -> Pieces:
    """What one does (third person), or several do."""
    if many:
        return ("are",) if verb == "be" else (verb,)
    if verb in VERBS:
        return _with_suffix(verb, VERBS[verb][0])
    return verb, "es" if verb.endswith(_HISSING) else "s"


def past(verb: str, *, many: bool) -> Pieces:
    """What one did, or several did."""
    if verb == "be":
        return ("were",) if many else ("was",)
    if verb in VERBS:
        return (VERBS[verb][1],)
    return verb, "d" if verb.endswith("e") else "ed"


def takes_an(word: str) -> bool:
    """Whether the indefinite article before it is "an"."""
    return word.startswith(_SILENT_H) or (word[0] in "aeiou" and not word.startswith(_LIKE_YOU))


def _with_suffix(stem: str, word: str) -> Pieces:
    suffix = word.removeprefix(stem)
    return (stem, suffix) if suffix in SUFFIXES and suffix != word else (word,)
