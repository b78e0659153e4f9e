"""Words with their facts, the choices among them, and how they are spelled in tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from spd_tools.stories import lexicon
from spd_tools.stories.morphology import Pieces, past, plural, present

WORD_PATTERN = r" ?[A-Za-z]+(?:'[a-z]+)?| ?[^A-Za-z\s]|\s"
"""What the tokenizer looks at one by one: a word or a sign, with the space before it."""
BASE_FORMS = ("", "same", "plural")
"""Forms that are the word itself; every other form is one of its facts."""
COMMONEST = 3.0
"""How much more frequent the first word of a category is than its last."""


@dataclass(frozen=True)
class Word:
    """A content word."""

    text: str
    category: str
    facts: dict[str, str] = field(default_factory=dict, hash=False, compare=False)
    """What follows from it: pronouns, its noise, names of categories or rules."""


class Choice:
    """Probabilities of alternatives, in order."""

    __slots__ = ("bits", "cumulative", "probabilities")

    def __init__(self, weights: Sequence[float]) -> None:
        total = math.fsum(weights)
        self.probabilities = [weight / total for weight in weights]
        self.bits = [math.log2(total / weight) for weight in weights]
        """-log2 p"""
        self.cumulative = [math.fsum(weights[: n + 1]) / total for n in range(len(weights))]
        self.cumulative[-1] = 1.0


class Category:
    """Words that a slot may take, the first ones oftener than the last ones."""

    def __init__(self, words: Sequence[Word], weights: Sequence[float] | None = None) -> None:
        size = len(words)
        self.words = tuple(words)
        self.weights = weights or [1 / (1 + (COMMONEST - 1) * n / max(1, size - 1)) for n in range(size)]
        self.choice = Choice(self.weights)

    @cache  # noqa: B019 - categories live as long as the program
    def without(self, word: Word) -> Category:
        """The others; the category itself if the word is not in it."""
        kept = [n for n, other in enumerate(self.words) if other != word]
        if len(kept) == len(self.words):
            return self
        return Category([self.words[n] for n in kept], [self.weights[n] for n in kept])


class Lexicon:
    """All words, by category.

    Args:
        groups: topic -> category -> words; a topic is a choice among all of its categories' words.
        unions: further choices, name -> words.
        category_facts: what follows from a category.
        word_facts: what follows from a word.
    """

    def __init__(
        self,
        groups: dict[str, dict[str, str]] = lexicon.GROUPS,
        unions: dict[str, str] = lexicon.UNIONS,
        category_facts: dict[str, dict[str, str]] = lexicon.CATEGORY_FACTS,
        word_facts: dict[str, dict[str, str]] = lexicon.WORD_FACTS,
    ) -> None:
        self.groups = groups
        self.categories: dict[str, Category] = {}
        words: dict[str, Word] = {}
        for topic, members in groups.items():
            drawn: list[Category] = []
            for category, texts in members.items():
                some = [
                    Word(text, category, category_facts.get(category, {}) | word_facts.get(text, {}))
                    for text in texts.split()
                ]
                words.update({word.text: word for word in some})
                self.categories[category] = Category(some)
                drawn.append(self.categories[category])
            self.categories.setdefault(
                topic,
                Category([word for one in drawn for word in one.words], [w for one in drawn for w in one.weights]),
            )
        for name, texts in unions.items():
            self.categories[name] = Category([words[text] for text in texts.split()])

    def verbs(self) -> set[str]:
        """Words of the categories of verbs."""
        return {word.text for name, one in self.categories.items() if name.endswith("verb") for word in one.words}


class Speller:
    """Words and text -> tokens.

    A word that inflects regularly is a stem and a suffix wherever it stands; every other word is one token, together
    with the space before it.

    Args:
        nouns: Words that have a plural.
        verbs: Words that have tenses.
    """

    def __init__(self, nouns: set[str], verbs: set[str]) -> None:
        inflected = [plural(noun) for noun in nouns]
        inflected += [form(verb, many=many) for verb in verbs for form in (present, past) for many in (False, True)]
        self._split = {"".join(pieces): pieces for pieces in inflected if len(pieces) > 1}

    def text(self, text: str) -> Pieces:
        """Tokens of any text of the stories."""
        return tuple(piece for word in re.findall(WORD_PATTERN, text) for piece in self._pieces(word))

    def word(self, word: Word, form: str, *, spaced: bool) -> Pieces:
        """A word in a form: "" or "same", "plural", or one of its facts; a capital form begins with a capital."""
        kind = form.lower()
        if kind in BASE_FORMS:
            text = "".join(plural(word.text)) if kind == "plural" else word.text
        else:
            text = word.facts[kind]
        if form[:1].isupper():
            text = text[0].upper() + text[1:]
        return self.text(" " + text if spaced else text)

    def verb(self, verb: str, tense: str, *, many: bool, spaced: bool) -> Pieces:
        """A verb as one or several do it, or did it."""
        pieces = (present if tense == "present" else past)(verb, many=many)
        return self.text((" " if spaced else "") + "".join(pieces))

    def _pieces(self, word: str) -> Pieces:
        bare = word.removeprefix(" ")
        pieces = self._split.get(bare[:1].lower() + bare[1:])
        if pieces is None:
            return (word,)
        stem = word[: len(word) - sum(map(len, pieces[1:]))]
        return (stem, *pieces[1:])
