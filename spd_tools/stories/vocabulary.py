"""The tokens of the stories: ids, tokenizer, and the categories that each token belongs to."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from spd_tools.stories.grammar import END_OF_STORY, Grammar
from spd_tools.stories.lexicon import WORD_CLASSES
from spd_tools.stories.morphology import SUFFIXES
from spd_tools.stories.words import WORD_PATTERN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN = "<unk>"
"""Stands for every word that no story has."""

_SUFFIX_KINDS = {"plural and third person suffix": ("s", "es"), "past suffix": ("d", "ed")}
_NO_CATEGORIES = ("he", "him", "his", "less", "next", "later", "count", "task", "rest")
"""Facts of words that belong to other categories."""


class Vocabulary:
    """Every token that a grammar can write.

    Ids: 0 the end of a story, 1 the unknown word, then all others in alphabetical order.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._outcomes = grammar.outcomes()
        self._topics = {category: topic for topic, members in grammar.lexicon.groups.items() for category in members}
        tokens = {token for pieces, _ in self._outcomes for token in pieces} - {END_OF_STORY}
        self.tokens = (END_OF_STORY, UNKNOWN, *sorted(tokens))
        """id -> token"""
        self.ids = {token: n for n, token in enumerate(self.tokens)}
        """token -> id"""

    def __len__(self) -> int:
        return len(self.tokens)

    def tokenizer(self) -> Tokenizer:
        """A tokenizer that cuts every story into the tokens that the grammar wrote.

        Words and signs, each with the space before it, are looked up by their longest beginning in the vocabulary; so
        a text has one sequence of tokens. A word that cannot be put together is UNKNOWN.
        """
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

        tokenizer = Tokenizer(models.WordPiece(self.ids, unk_token=UNKNOWN, continuing_subword_prefix=""))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated")
        tokenizer.decoder = decoders.Fuse()
        tokenizer.add_special_tokens([END_OF_STORY, UNKNOWN])
        return tokenizer

    @cached_property
    def categories(self) -> dict[str, frozenset[int]]:
        """Category -> ids of its tokens; a token may have several categories.

        There are the categories and topics of the lexicon (an inflected word counts by its stem), tenses and numbers
        ("verb, past", "noun, plural"), classes of function words, suffixes, and "capital": what begins a sentence.
        """
        found: dict[str, set[int]] = {}

        def put(category: str, token: str) -> None:
            found.setdefault(category, set()).add(self.ids[token])

        for pieces, categories in self._outcomes:
            if len(pieces) - (pieces[-1] in SUFFIXES) > 1:
                continue
            for category in categories:
                if category not in _NO_CATEGORIES:
                    put(category, pieces[0])
                    put(self._topics.get(category, category), pieces[0])
        for category, texts in WORD_CLASSES.items():
            for text in texts.split():
                for form in (text, text.capitalize()):
                    for token in (form, " " + form):
                        if token in self.ids:
                            put(category, token)
        for category, suffixes in _SUFFIX_KINDS.items():
            for suffix in suffixes:
                if suffix in self.ids:
                    put(category, suffix)
        names = found.get("name", set()) | found.get("weekday", set()) | found.get("pet name", set())
        for token, number in self.ids.items():
            if token.strip()[:1].isupper() and number not in names:
                put("capital", token)
        return {category: frozenset(ids) for category, ids in found.items()}
