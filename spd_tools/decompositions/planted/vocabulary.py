"""The planted model's words, and the seed's cast: which of them play which role."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_SEQ_LEN = 64
UNKNOWN = "<unk>"

NOUNS = {
    "animal": "fox dog cat horse owl bear wolf hen goat mouse seal otter",
    "food": "bread soup cheese apple rice honey cake bean onion pear plum salad",
    "tool": "hammer saw ladder rope needle brush shovel knife drill axe nail bucket",
    "clothing": "coat hat shirt glove scarf boot sock belt dress jacket apron cloak",
    "vehicle": "car train boat bike truck tram ferry bus wagon plane canoe sledge",
    "instrument": "drum flute piano violin horn harp guitar cello trumpet banjo organ lute",
}
"""Interchangeable in the grammar: the seed decides which of them is noun0, noun1, ..."""

OTHERS = {
    "place": "river forest village harbour market castle valley island desert bridge",
    "colour": "red green blue black white yellow brown grey",
    "quality": "small old young heavy tiny warm cold quiet",
    "number": "two three four five six seven eight nine",
    "intransitive": "sleeps runs waits sings falls rests jumps hides laughs dances",
    "transitive": "sees takes finds wants keeps brings sells likes breaks draws",
    "preposition": "in near under behind beside above",
    "determiner": "the a this every",
    "connective": "and but because while",
    "negation": "not never",
    "weather": "rain snow wind fog storm frost hail thunder",
    "day": "monday tuesday wednesday thursday friday saturday sunday",
    "time": "today yesterday tomorrow tonight",
    "person": "anna ben clara david emma felix grace henry",
    "question": "who why where when",
    "adverb": "slowly quickly often always again soon",
    "stop": ". ? !",
    "pause": ", ;",
}

CITIES = "new york, hong kong, san francisco, los angeles, las vegas, cape town, sri lanka, costa rica"
"""Pairs: the first word calls for the second."""

ORDERED = ("stop", "pause", "determiner", "day")
"""Categories whose order means something: the seed leaves them as they are."""


def digest(*parts: object) -> int:
    """64 bits that depend on the parts alone, on every machine and in every version of Python."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")


def shuffled(items: Iterable[str], *label: object) -> tuple[str, ...]:
    """The items in an order that depends on the label alone."""
    return tuple(sorted(items, key=lambda item: digest(*label, item)))


class Cast:
    """The vocabulary of one seed: token ids, and who is who in every category."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.nouns = shuffled(NOUNS, seed, "nouns")
        """nouns[i]: what noun<i> is, for example "animal"."""
        self.members: dict[str, tuple[str, ...]] = {}
        """Category -> its words, by role: the first are common, the last is rare."""
        for at, name in enumerate(self.nouns):
            self.members[f"noun{at}"] = shuffled(NOUNS[name].split(), seed, name)
        for name, text in OTHERS.items():
            self.members[name] = tuple(text.split()) if name in ORDERED else shuffled(text.split(), seed, name)
        self.cities = [tuple(pair.split()) for pair in shuffled(CITIES.split(", "), seed, "cities")]
        self.members["city"] = tuple(first for first, _ in self.cities)
        self.members["city_end"] = tuple(second for _, second in self.cities)
        every_word = (word for members in self.members.values() for word in members)
        self.words = (UNKNOWN, *shuffled(every_word, seed, "ids"))
        """Token id -> word; id 0 is what the tokenizer gives to words that it does not know."""
        self._ids = {word: token for token, word in enumerate(self.words)}

    def __getitem__(self, category: str) -> tuple[str, ...]:
        return self.members[category]

    def phrase(self, words: tuple[str, ...], last: str = "or") -> str:
        """'"a", "b" or "c"', or "any animal word" for a whole category of some size."""
        for category, members in self.members.items():
            if len(words) > 4 and set(words) == set(members):
                noun = category.removeprefix("noun")
                return f"any {self.nouns[int(noun)] if noun.isdigit() else category} word"
        *others, final = (f'"{word}"' for word in words)
        return f"{', '.join(others)} {last} {final}" if others else final

    def token(self, word: str) -> int:
        """Token id of a word of the vocabulary."""
        return self._ids[word]

    def tokens(self, words: Iterable[str]) -> frozenset[int]:
        """Token ids of words of the vocabulary."""
        return frozenset(self._ids[word] for word in words)

    def tokenizer(self) -> Tokenizer:
        """Lower-cased words and single punctuation marks; decoding puts spaces between them."""
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        tokenizer = Tokenizer(models.WordLevel(self._ids, unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
        )
        return tokenizer
