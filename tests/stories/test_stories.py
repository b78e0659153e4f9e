import re
from collections import defaultdict
from math import fsum, isclose, log2, sqrt

import numpy as np
import pytest

from spd_tools.errors import SpdToolsError
from spd_tools.stories import Grammar, Stories, annotate, story_grammar, story_vocabulary
from spd_tools.stories.choosers import Chance, read_bits
from spd_tools.stories.lexicon import GROUPS
from spd_tools.stories.telling import Telling
from spd_tools.stories.words import Lexicon

SMALL_WORDS = {
    "name": {"girl": "Mia Zoe", "boy": "Ben"},
    "animal": {"pet": "cat ant", "wild animal": "fox mouse"},
    "weather": {"dry weather": "hot", "wet weather": "rainy wet"},
    "number": {"number": "two three"},
    "glad verb": {"glad verb": "dance cry"},
}
SMALL_FACTS = {
    "girl": {"he": "she"},
    "boy": {"he": "he"},
    "dry weather": {"sky": "dry sky", "fans": "pet"},
    "wet weather": {"sky": "wet sky", "fans": "wild animal"},
}
SMALL_RULES = {
    "story": """
        3 | It [be] {weather}. {hero:name} [see] a {animal}. <@weather.sky>
        1 | A {weather} day [be] good for {number} {@weather.fans.plural}. {hero:name} [*glad verb]. <end>
    """,
    "dry sky": """
        1 | {=hero.He} [*glad verb]. <end>
    """,
    "wet sky": """
        2 | {=hero} and {friend:name!hero} [*glad verb+]. <end>
        1 | {=hero} and the {=animal} [dance+]. <end>
        1 | Then {=hero.he} [have] a {=animal}. $
    """,
    "end": """
        2 | $
        1 | The end.$
    """,
}


class Explorer:
    """Tells every story there is, one after the other, depth first."""

    def __init__(self):
        self.path, self.sizes, self.at = [], [], 0
        self.probability = 1.0

    def pick(self, choice, options):
        if self.at == len(self.path):
            self.path.append(0)
            self.sizes.append(len(choice.bits))
        index = self.path[self.at]
        self.at += 1
        self.probability *= choice.probabilities[index]
        return index

    def wrote(self, tokens):
        pass

    def advance(self):
        """Whether there is a next story."""
        while self.path and self.path[-1] == self.sizes[-1] - 1:
            self.path.pop()
            self.sizes.pop()
        if self.path:
            self.path[-1] += 1
        self.at, self.probability = 0, 1.0
        return bool(self.path)


@pytest.fixture(scope="module")
def small():
    return Grammar(SMALL_RULES, Lexicon(SMALL_WORDS, {}, SMALL_FACTS, {}))


@pytest.fixture(scope="module")
def derivations(small):
    """Every derivation: tokens, bits per token, probability as the product of its choices."""
    explorer, found = Explorer(), []
    while True:
        telling = Telling(explorer)
        small.tell(telling)
        found.append((tuple(telling.tokens), telling.bits, explorer.probability))
        if not explorer.advance():
            return found


@pytest.fixture(scope="module")
def stories():
    return Stories(0)


def test_probabilities_of_all_derivations_sum_to_one(derivations):
    assert len(derivations) > 200
    assert isclose(fsum(p for _, _, p in derivations), 1.0, rel_tol=1e-12)


def test_bits_of_a_story_are_those_of_the_product_of_its_choices(derivations):
    for _, bits, probability in derivations:
        assert isclose(fsum(bits), -log2(probability), rel_tol=1e-12)


def test_no_text_has_two_derivations(derivations):
    texts = ["".join(tokens) for tokens, _, _ in derivations]
    assert len(set(texts)) == len(texts)


def test_bits_of_a_token_are_exact_given_the_tokens_before_it(derivations):
    mass = defaultdict(float)
    for tokens, _, probability in derivations:
        for n in range(len(tokens) + 1):
            mass[tokens[:n]] += probability
    for tokens, bits, _ in derivations:
        for n, found in enumerate(bits):
            expected = log2(mass[tokens[:n]] / mass[tokens[: n + 1]])
            assert isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)


def test_reading_a_text_finds_its_derivation(small, derivations):
    for tokens, bits, _ in derivations:
        assert read_bits(small, tokens) == bits


def test_mean_of_sampled_bits_agrees_with_the_exact_entropy(small, derivations):
    entropy = fsum(-p * log2(p) for _, _, p in derivations)
    variance = fsum(p * (-log2(p) - entropy) ** 2 for _, _, p in derivations)
    n, total = 4000, 0.0
    for number in range(n):
        telling = Telling(Chance(7, number))
        small.tell(telling)
        total += sum(telling.bits)
    assert abs(total / n - entropy) < 4 * sqrt(variance / n)


def test_alternatives_that_begin_with_the_same_token_are_refused():
    rules = {"story": "1 | The {number} end.$\n1 | The two {name} end.$"}
    with pytest.raises(AssertionError, match="two alternatives begin"):
        Grammar(rules, Lexicon(SMALL_WORDS, {}, SMALL_FACTS, {}))


def test_an_alternative_that_ends_within_another_is_refused():
    with pytest.raises(AssertionError, match="ends where another goes on"):
        Grammar({"story": "1 | The\n1 | The end.$"}, Lexicon(SMALL_WORDS, {}, SMALL_FACTS, {}))


def test_a_story_depends_on_seed_and_number_only(stories):
    again = Stories(0)
    for number in (5, 3, 10**12):
        assert stories.story(number).text == again.story(number).text
        assert stories.story(number).text != Stories(1).story(number).text


def test_a_row_depends_on_seed_and_number_only(stories):
    some = list(stories.rows(10, 4, 96))
    assert np.array_equal(next(stories.rows(12, 1, 96)), some[2])
    assert np.array_equal(next(stories.rows(12, 1, 40)), some[2][:40])
    assert not np.array_equal(some[1], some[2])


def test_the_corpus_is_the_one_that_was_trained_on(stories):
    # A change of words or rules makes another corpus: the story model has to be trained anew then.
    assert stories.story(0).text.startswith("Long ago, a funny queen had a new crown.")
    assert len(stories.vocabulary) == 949


def test_bits_of_rows_are_those_of_their_stories(stories):
    rows = np.stack(list(stories.rows(0, 20, 128)))
    bits = stories.bits(rows)
    for row, found in zip(rows, bits, strict=True):
        end = int(np.flatnonzero(row == 0)[0]) + 1
        assert read_bits(stories.grammar, [stories.vocabulary.tokens[token] for token in row[:end]]) == list(
            found[:end]
        )
    assert 0.5 < bits[:, 1:].mean() < 1.0


def test_what_the_grammar_does_not_tell_is_refused(stories):
    row = next(stories.rows(0, 1, 64))
    row[20:] = stories.vocabulary.ids["Once"]
    with pytest.raises(SpdToolsError, match="tells no story"):
        stories.bits(row[None])


def test_a_negative_seed_is_refused():
    with pytest.raises(SpdToolsError, match="seed"):
        Stories(-1)


def test_the_tokenizer_cuts_texts_as_the_grammar_wrote_them(stories):
    tokenizer = stories.vocabulary.tokenizer()
    for number in range(200):
        story = stories.story(number)
        assert [*tokenizer.encode(story.text).ids, 0] == story.tokens.tolist()
        assert tokenizer.decode(story.tokens[:-1].tolist()) == story.text


def test_everything_the_grammar_can_write_is_cut_so(stories):
    tokenizer = stories.vocabulary.tokenizer()
    for pieces, _ in stories.grammar.outcomes():
        assert tokenizer.encode("".join(pieces)).tokens == list(pieces)


def test_a_word_of_no_story_is_unknown(stories):
    assert stories.vocabulary.tokenizer().encode("The zebra computes.").ids[2] == 1


def test_a_word_has_one_category():
    words = [word for topic in GROUPS.values() for texts in topic.values() for word in texts.split()]
    assert len(words) == len(set(words))


def test_every_token_has_a_category(stories):
    covered = set().union(*stories.vocabulary.categories.values())
    assert covered == set(range(2, len(stories.vocabulary)))


def test_categories_say_what_words_are(stories):
    vocabulary = stories.vocabulary
    named = {name: {vocabulary.tokens[token] for token in tokens} for name, tokens in vocabulary.categories.items()}
    assert named["farm animal"] < named["animal"]
    assert named["girl"] | named["boy"] == named["name"]
    assert {" she", "Woof"}.isdisjoint(named["girl"] | named["animal"])
    assert " she" in named["pronoun"]
    assert {" went", " go"} & named["past verb"] == {" went"}
    assert " sunny" in named["sun weather"] & named["weather"]
    assert named["noise"] >= {" woof", "Woof"}
    assert len([name for name, tokens in named.items() if len(tokens) >= 3]) >= 60


def test_positions_are_annotated():
    text = 'One hot day, Mia went to the zoo. "Wow!" said Mia. "Is this your key?" She asked a cow.'
    tokens = story_vocabulary().tokenizer().encode(text)
    rows = np.array([[*tokens.ids, 0, *tokens.ids[:4]]])
    marks = annotate(rows)

    def marked(name):
        return [token for token, mark in zip(tokens.tokens, marks[name][0], strict=False) if mark]

    assert marked("inside quotation") == ["Wow", "!", "Is", " this", " your", " key", "?"]
    assert marked("sentence start") == ["One", "Wow", "Is", " She"]
    assert marked("said again") == [" Mia"]
    assert marks["sentence start"][0, len(tokens) + 1]
    assert not marks["said again"][0, len(tokens) :].any()


@pytest.fixture(scope="module")
def texts(stories):
    return [stories.story(number).text for number in range(1500)]


def test_articles_agree(texts):
    for text in texts:
        assert not re.search(r"\b[Aa] (?:[aeio]|hones)", text)
        assert not re.search(r"\b[Aa]n (?![aeio]|hones)", text)


def test_pronouns_refer_to_the_hero(texts):
    names = GROUPS["name"]
    for text in texts:
        if match := re.search(r"(?:day|morning|evening), (\w+) (?:went|goes) to the \w+\. (He|She)\b", text):
            assert (match[2] == "She") == (match[1] in names["girl"].split())


def test_numbers_count(texts):
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    found = [m for text in texts if (m := re.search(r"has (\w+) \w+ and gives one .* Now s?he has (\w+) \w+", text))]
    assert len(found) > 5
    for match in found:
        assert words.index(match[1]) == words.index(match[2]) + 1


def test_a_story_keeps_its_tense(texts):
    for text in texts:
        told = re.sub(r'"[^"]*"', "", text)
        assert not (re.search(r"\bsaid\b|\bwas\b", told) and re.search(r"\bsays\b|\bis\b", told))


def test_grammar_is_made_once():
    assert story_grammar() is Stories(4).grammar
