"""Stories by number, rows of them, and what each token of a row costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from spd_tools.errors import SpdToolsError
from spd_tools.stories import lexicon, plots
from spd_tools.stories.choosers import Chance, read_bits
from spd_tools.stories.grammar import END_OF_STORY, Grammar
from spd_tools.stories.telling import Telling
from spd_tools.stories.vocabulary import Vocabulary
from spd_tools.stories.word_steps import TENSE_CHOICE
from spd_tools.stories.words import COMMONEST

_VERSION = 1
"""Of how rules and words become stories; part of every token file's fingerprint."""
_SINGLE_STORIES, _ROWS = 0, 1
_STREAM = 1 << 62
"""Numbers of one kind: more than there will ever be rows."""


@dataclass(frozen=True)
class Story:
    """One story."""

    text: str
    """Without the end token."""
    tokens: np.ndarray
    """[tokens] int64, the end token last"""
    bits: np.ndarray
    """[tokens] f64: -log2 of each token's probability given those before it; the sum is that of the whole story, as no
    other derivation gives the same text."""


@cache
def story_grammar() -> Grammar:
    """The grammar of the stories."""
    return Grammar()


@cache
def story_vocabulary() -> Vocabulary:
    """Their tokens."""
    return Vocabulary(story_grammar())


class Stories:
    """An endless corpus: story n, and row n of stories, depend on the seed and n only.

    Args:
        seed: Not negative.

    Raises:
        SpdToolsError: for another seed.
    """

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise SpdToolsError(f"The seed of the stories is {seed}; take 0 or more.")
        self.seed = seed
        self.grammar = story_grammar()
        self.vocabulary = story_vocabulary()

    def story(self, number: int) -> Story:
        """Story 0, 1, 2, ..."""
        telling = self._tell(Chance(self.seed, _SINGLE_STORIES * _STREAM + number))
        tokens = np.array([self.vocabulary.ids[token] for token in telling.tokens])
        return Story("".join(telling.tokens[:-1]), tokens, np.array(telling.bits))

    def rows(self, first: int, n_rows: int, seq_len: int) -> Iterator[np.ndarray]:
        """Rows first, first + 1, ... of [seq_len] token ids.

        A row begins with a story; others follow, an end token after each, and the row's end cuts the last one off. So
        nothing that a token hangs on lies outside its row.
        """
        ids = self.vocabulary.ids
        for number in range(first, first + n_rows):
            chance = Chance(self.seed, _ROWS * _STREAM + number)
            tokens: list[str] = []
            while len(tokens) < seq_len:
                tokens += self._tell(chance).tokens
            yield np.array([ids[token] for token in tokens[:seq_len]])

    def bits(self, rows: np.ndarray) -> np.ndarray:
        """-log2 p of every token of [rows, seq] given those before it in its row, as f64: what no model can beat.

        Raises:
            SpdToolsError: for rows that the grammar does not tell.
        """
        tokens = self.vocabulary.tokens
        return np.array([read_bits(self.grammar, [tokens[token] for token in row]) for row in rows.tolist()])

    def _tell(self, chance: Chance) -> Telling:
        telling = Telling(chance)
        self.grammar.tell(telling)
        return telling


def annotate(rows: np.ndarray) -> dict[str, np.ndarray]:
    """What can be said of positions rather than of tokens: [rows, seq] bool each, for rows that begin with a story.

    "inside quotation": between quotation marks. "sentence start": the first word of a sentence, quoted or not.
    "said again": a content word that its story has already.
    """
    vocabulary = story_vocabulary()
    opening, closing = vocabulary.ids[' "'], vocabulary.ids['"']
    opens, closes = rows == opening, rows == closing
    before = _shifted(rows, 0)
    inside = (_shifted(opens.cumsum(1), 0) > closes.cumsum(1)) & ~closes
    capital = np.array([token.strip()[:1].isupper() for token in vocabulary.tokens])
    stop = np.isin(before, [vocabulary.ids[token] for token in ".!?"])
    starts = (before == 0) | (before == opening) | (stop & ~opens & ~closes) | ((before == closing) & capital[rows])
    return {"inside quotation": inside, "sentence start": starts & (rows != 0), "said again": _said_again(rows)}


def _said_again(rows: np.ndarray) -> np.ndarray:
    content: set[int] = set()
    for topic in lexicon.GROUPS:
        content |= story_vocabulary().categories[topic]
    again = np.zeros(rows.shape, dtype=bool)
    for row, marks in zip(rows.tolist(), again, strict=True):
        said: set[int] = set()
        for position, token in enumerate(row):
            if token == 0:
                said.clear()
            elif token in content:
                marks[position] = token in said
                said.add(token)
    return again


def _shifted(array: np.ndarray, first: int) -> np.ndarray:
    """Each position's left neighbour."""
    return np.concatenate([np.full((len(array), 1), first), array[:, :-1]], axis=1)


def grammar_digest() -> str:
    """Hex digits that differ between grammars that tell different stories."""
    parts = [
        _VERSION,
        plots.RULES,
        lexicon.GROUPS,
        lexicon.UNIONS,
        lexicon.CATEGORY_FACTS,
        lexicon.WORD_FACTS,
        lexicon.PLURALS,
        lexicon.VERBS,
        COMMONEST,
        TENSE_CHOICE.probabilities,
        END_OF_STORY,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
