"""Steps that write words: drawn, remembered, inflected."""

from __future__ import annotations

from collections.abc import Sequence

from spd_tools.stories.morphology import Pieces, takes_an
from spd_tools.stories.steps import Outcome, Step
from spd_tools.stories.telling import Telling
from spd_tools.stories.words import BASE_FORMS, Category, Choice, Speller, Word

TENSES = ("past", "present")
TENSE_CHOICE = Choice([3.0, 1.0])
ARTICLES = ("", "n")


class Spelling:
    """How words are written in one place."""

    def __init__(self, speller: Speller, words: Sequence[Word], form: str, *, spaced: bool) -> None:
        self.of = {word: speller.word(word, form, spaced=spaced) for word in words}
        """word -> tokens"""
        self._form = form.lower()

    def outcomes(self) -> list[Outcome]:
        """All of them; a word's facts are not of its category, but of one that is called as the fact."""
        if self._form in BASE_FORMS:
            return [(pieces, (word.category,)) for word, pieces in self.of.items()]
        return [(pieces, (self._form,)) for pieces in self.of.values()]


class Draw(Step):
    """A word that is drawn, remembered and written."""

    def __init__(
        self,
        role: str,
        categories: dict[str, Category],
        spelling: Spelling,
        *,
        fact: tuple[str, str] | None,
        other_than: str | None,
    ) -> None:
        self.role, self.categories, self.spelling = role, categories, spelling
        self.fact = fact
        """(role, fact) whose value names the category; None where there is one category."""
        self.other_than = other_than
        self._only = next(iter(categories.values())) if len(categories) == 1 else None

    def category(self, telling: Telling) -> Category:
        """What is drawn from, as the story stands."""
        category = self._only
        if category is None:
            assert self.fact is not None
            category = self.categories[telling.roles[self.fact[0]].facts[self.fact[1]]]
        return category.without(telling.roles[self.other_than]) if self.other_than else category

    def run(self, telling: Telling) -> None:
        """Write what comes here."""
        category = self.category(telling)
        word = category.words[telling.choose(category.choice, _Words(category.words, self.spelling))]
        telling.roles[self.role] = word
        telling.write(self.spelling.of[word])

    def firsts(self, telling: Telling | None) -> set[str]:
        """What it can begin with."""
        words = self.spelling.of if telling is None else self.category(telling).words
        return {self.spelling.of[word][0] for word in words}

    def outcomes(self) -> list[Outcome]:
        """What it can write."""
        return self.spelling.outcomes()


class DrawAfterArticle(Draw):
    """The same after "a" or "an": the article shows what kind of word comes, the word itself the rest."""

    def __init__(self, article: str, draw: Draw) -> None:
        super().__init__(draw.role, draw.categories, draw.spelling, fact=draw.fact, other_than=draw.other_than)
        self.articles = [article + ending for ending in ARTICLES]

    def run(self, telling: Telling) -> None:
        """Write what comes here."""
        category = self.category(telling)
        kinds = [[n for n, word in enumerate(category.words) if takes_an(word.text) == an] for an in (False, True)]
        weights = [sum(category.weights[n] for n in kind) for kind in kinds]
        an = 0 if not kinds[1] else 1 if not kinds[0] else telling.choose(Choice(weights), _Tokens(self.articles))
        telling.write((self.articles[an],))
        words = [category.words[n] for n in kinds[an]]
        choice = Choice([category.weights[n] for n in kinds[an]])
        word = words[telling.choose(choice, _Words(words, self.spelling))]
        telling.roles[self.role] = word
        telling.write(self.spelling.of[word])

    def firsts(self, telling: Telling | None) -> set[str]:
        """What it can begin with."""
        words = self.spelling.of if telling is None else self.category(telling).words
        return {self.articles[takes_an(word.text)] for word in words}

    def outcomes(self) -> list[Outcome]:
        """What it can write."""
        return [*super().outcomes(), *(((article,), ()) for article in self.articles)]


class Recall(Step):
    """A remembered word, after an article where there is one."""

    def __init__(self, role: str, spelling: Spelling, article: str) -> None:
        self.role, self.spelling = role, spelling
        self.article = article

    def _pieces(self, word: Word) -> Pieces:
        pieces = self.spelling.of[word]
        return (self.article + ARTICLES[takes_an(word.text)], *pieces) if self.article else pieces

    def run(self, telling: Telling) -> None:
        """Write what comes here."""
        telling.write(self._pieces(telling.roles[self.role]))

    def firsts(self, telling: Telling | None) -> set[str]:
        """What it can begin with."""
        if telling is None or self.role not in telling.roles:
            return {self._pieces(word)[0] for word in self.spelling.of}
        return {self._pieces(telling.roles[self.role])[0]}

    def outcomes(self) -> list[Outcome]:
        """What it can write."""
        articles = {(self._pieces(word)[0],) for word in self.spelling.of} if self.article else set()
        return [*self.spelling.outcomes(), *((article, ()) for article in articles)]


class Conjugate(Step):
    """A verb in the tense of the story; the first verb draws the tense."""

    def __init__(self, speller: Speller, words: Sequence[Word], *, role: str | None, many: bool, spaced: bool) -> None:
        self.words, self.role = tuple(words), role
        self.forms = {
            tense: {word.text: speller.verb(word.text, tense, many=many, spaced=spaced) for word in words}
            for tense in TENSES
        }

    def run(self, telling: Telling) -> None:
        """Write what comes here."""
        word = telling.roles[self.role] if self.role else self.words[0]
        if telling.tense is None:
            both = [self.forms[tense][word.text] for tense in TENSES]
            assert both[0][0] != both[1][0], f"{word.text} cannot show the tense"
            telling.tense = TENSES[telling.choose(TENSE_CHOICE, _Tokens([pieces[0] for pieces in both]))]
        telling.write(self.forms[telling.tense][word.text])

    def firsts(self, telling: Telling | None) -> set[str]:
        """What it can begin with."""
        tenses = TENSES if telling is None or telling.tense is None else (telling.tense,)
        verbs = [word.text for word in self.words]
        if telling is not None and self.role in telling.roles:
            verbs = [telling.roles[self.role].text]
        return {self.forms[tense][verb][0] for tense in tenses for verb in verbs}

    def outcomes(self) -> list[Outcome]:
        """What it can write."""
        return [
            _verb_outcome(tense, word, forms[word.text]) for tense, forms in self.forms.items() for word in self.words
        ]


class DrawVerb(Step):
    """A verb that is drawn, in the tense that the story has already."""

    def __init__(self, speller: Speller, category: Category, *, many: bool, spaced: bool) -> None:
        self.category = category
        self.forms = {
            tense: [speller.verb(word.text, tense, many=many, spaced=spaced) for word in category.words]
            for tense in TENSES
        }

    def run(self, telling: Telling) -> None:
        """Write what comes here."""
        assert telling.tense is not None, "a story's first verb is not drawn"
        forms = self.forms[telling.tense]
        index = telling.choose(self.category.choice, _Tokens([pieces[0] for pieces in forms]))
        telling.write(forms[index])

    def firsts(self, telling: Telling | None) -> set[str]:
        """What it can begin with."""
        tenses = TENSES if telling is None or telling.tense is None else (telling.tense,)
        return {pieces[0] for tense in tenses for pieces in self.forms[tense]}

    def outcomes(self) -> list[Outcome]:
        """What it can write."""
        return [
            _verb_outcome(tense, word, pieces)
            for tense, forms in self.forms.items()
            for word, pieces in zip(self.category.words, forms, strict=True)
        ]


def _verb_outcome(tense: str, word: Word, pieces: Pieces) -> Outcome:
    """A form that is one token belongs to its tense, too; a stem is of no tense, and the bare verb of none."""
    shows = len(pieces) == 1 and pieces[0].strip() != word.text
    return pieces, (word.category, f"{tense} verb") if shows else (word.category,)


class _Words:
    __slots__ = ("spelling", "words")

    def __init__(self, words: Sequence[Word], spelling: Spelling) -> None:
        self.words, self.spelling = words, spelling

    def firsts(self, index: int) -> set[str]:
        """What it can begin with."""
        return {self.spelling.of[self.words[index]][0]}


class _Tokens:
    __slots__ = ("tokens",)

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens

    def firsts(self, index: int) -> set[str]:
        """What it can begin with."""
        return {self.tokens[index]}
