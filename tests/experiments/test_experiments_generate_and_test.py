"""True labels score high, wrong ones stay at chance; texts are written from planted rules by a program."""

from __future__ import annotations

import dataclasses
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_subjects import key_of, planted
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from spd_tools.decompositions.planted import Rule
from spd_tools.decompositions.planted.conditions import Graded
from spd_tools.errors import SpdToolsError
from spd_tools.experiments import Subject, make_request, read_result, replay, run
from spd_tools.experiments.generate_and_test import GenerateAndTestResult, blind_score, fisher_exact
from spd_tools.experiments.near_misses import MISS_KINDS, spelt
from spd_tools.experiments.subject import MarkedText

LENGTH = 9
N = 12
TRUE_LABELS = (
    "after-person",
    "two-after-weather",
    "recent-negation",
    "mood",
    "suppress-after-and",
    "city-0",
    "tail-marker",
    "category",
    "duplicate-a",
    "weekday",
    "bigram-city-0",
    "bigram-the",
    "gate-colour",
    "gate-determiner",
    "person-place",
    "number-noun",
    "early-stop",
    "negated-verb",
    "plain-act",
    "late-tail-marker",
)


def sentence(subject: Subject, rng: random.Random, words=()) -> list[int]:
    """Random words, some of them from a list."""
    known = [n for n, word in enumerate(planted(subject).words) if word != "<unk>"]
    wanted = [planted(subject).words.index(word) for word in words]
    return [rng.choice(wanted if wanted and rng.random() < 0.4 else known) for _ in range(LENGTH)]


def marked(subject: Subject, tokens: list[int], position: int) -> str:
    text = spelt(subject, MarkedText(tokens, [position]))
    assert text is not None
    return text


def positives(subject: Subject, rule: Rule, rng: random.Random, n: int = N) -> list[str]:
    """Texts in which a rule fires at the marked word."""
    texts: list[str] = []
    while len(texts) < n:
        tokens = sentence(subject, rng, rule.tokens)
        places = [place for place in range(LENGTH) if rule.fires(tokens, place)]
        if places:
            texts.append(marked(subject, tokens, rng.choice(places)))
    return texts


def silent(subject: Subject, rule: Rule, rng: random.Random, n: int = N) -> list[str]:
    """Texts in which a rule fires nowhere."""
    texts: list[str] = []
    while len(texts) < n:
        tokens = sentence(subject, rng)
        if not any(rule.fires(tokens, place) for place in range(LENGTH)):
            texts.append(" ".join(planted(subject).words[token] for token in tokens))
    return texts


def says_silent(subject: Subject, rule: Rule, text: str) -> bool:
    """What a label that is the rule says about a text."""
    read = subject.marked_tokens_of(text)
    return not any(rule.fires(read.tokens, place) for place in read.marked or range(len(read.tokens)))


def ask(subject: Subject, key: str, **parameters) -> GenerateAndTestResult:
    found = run(subject, make_request("generate_and_test", {"key": key, **parameters}))
    assert isinstance(found, GenerateAndTestResult)
    return found


def judged(subject: Subject, key: str, label: Rule) -> GenerateAndTestResult:
    """Both steps, by a labeller whose label is a rule; too few near misses: another seed gives others."""
    rng = random.Random(f"{key} {label.name}")
    texts = {"positives": positives(subject, label, rng), "negatives": silent(subject, label, rng, N // 2)}
    for seed in range(5):
        proposal = ask(subject, key, **texts, seed=seed)
        chosen = [c.text for c in proposal.candidates if says_silent(subject, label, c.text)]
        if len(chosen) >= N // 2:
            return ask(subject, key, **texts, near_misses=chosen, seed=seed)
    raise AssertionError(f"no seed gives {N // 2} near misses of {label.name}")


def test_true_labels_score_high(subjects):
    tried = [(subject, planted(subject).rule(name)) for subject in subjects.values() for name in TRUE_LABELS]
    scores = [judged(subject, rule.key, rule) for subject, rule in tried]
    assert {found.effect.value for found in scores} == {1.0}
    for found in scores:
        assert found.effect.low > 0.6
        assert found.excludes_control
        assert 2 * found.n_near_misses >= found.n_negative >= 10


@pytest.mark.parametrize(
    ("component", "label"),
    [
        ("place", "category"),
        ("gate-colour", "weekday"),
        ("bigram-the", "person-place"),
        ("random", "category"),
        ("late-random", "after-person"),
    ],
)
def test_wrong_labels_stay_at_chance(subjects, component, label):
    for subject in subjects.values():
        found = judged(subject, key_of(subject, component), planted(subject).rule(label))
        assert found.effect.low < 0.6
        assert not found.excludes_control


def test_a_label_that_leaves_out_the_context_is_found_out(subjects):
    for subject in subjects.values():
        rule = planted(subject).rule("bigram-the")
        nouns = {(0, planted(subject).words.index(word)): 1.5 for word in rule.tokens[1:]}
        blind = dataclasses.replace(rule, condition=Graded(nouns), tokens=rule.tokens[1:])
        found = judged(subject, rule.key, blind)
        assert found.sensitivity.value < 0.5
        assert found.effect.low < 0.6


def test_a_label_that_is_too_narrow_is_found_out_by_near_misses(subject):
    # "Fires on one day of the week": all positives fire, and so do near misses with another day.
    rule = planted(subject).rule("weekday")
    day = rule.tokens[0]
    narrow = Graded({(0, planted(subject).words.index(day)): 1.0})
    found = judged(subject, rule.key, dataclasses.replace(rule, condition=narrow, tokens=(day,)))
    assert found.sensitivity.value == 1
    assert found.near_miss_specificity.value < 1


@pytest.mark.long
def test_at_most_18_of_200_null_tries_reach_5_percent(subjects):
    seen = 0
    for number in range(200):
        subject = subjects[number % 3]
        rng = random.Random(number)
        key = key_of(subject, ("random", "late-random", "random-rare", "first-position")[number % 4])
        words = planted(subject).words
        texts = [" ".join(words[token] for token in sentence(subject, rng)) for _ in range(2 * N)]
        given = {"positives": texts[:N], "negatives": texts[N:][: N // 2], "seed": number}
        candidates = [candidate.text for candidate in ask(subject, key, **given).candidates]
        found = ask(subject, key, **given, near_misses=rng.sample(candidates, N // 2))
        seen += found.p_value <= 0.05
    assert seen <= 18


def test_near_misses_are_proposed_without_running_the_model(subject, monkeypatch):
    rule = planted(subject).rule("bigram-the")
    texts = positives(subject, rule, random.Random(0))
    monkeypatch.setattr(Subject, "traces", lambda *_: pytest.fail("the model was run"))
    proposal = ask(subject, rule.key, positives=texts)
    assert proposal.status == "choose near misses"
    assert proposal.effect is None
    assert proposal.texts == []
    assert {candidate.kind for candidate in proposal.candidates} == set(MISS_KINDS)
    assert proposal == ask(subject, rule.key, positives=texts)
    assert proposal.candidates != ask(subject, rule.key, positives=texts, seed=1).candidates


def test_candidates_are_new_and_read_back_as_meant(subject):
    rule = planted(subject).rule("person-place")
    texts = positives(subject, rule, random.Random(1))
    given = {tuple(subject.marked_tokens_of(text).tokens) for text in texts}
    candidates = ask(subject, rule.key, positives=texts).candidates
    cut = [subject.marked_tokens_of(candidate.text) for candidate in candidates]
    assert not given & {tuple(read.tokens) for read in cut}
    assert len({tuple(read.tokens) for read in cut}) == len(cut)
    for candidate, read in zip(candidates, cut, strict=True):
        source = subject.marked_tokens_of(texts[candidate.positive])
        assert len(read.marked) == 1
        if candidate.kind in ("moved", "shuffled"):
            assert sorted(read.tokens) == sorted(source.tokens)
            assert read.tokens[read.marked[0]] == source.tokens[source.marked[0]]
        else:
            changed = [at for at, (a, b) in enumerate(zip(read.tokens, source.tokens, strict=True)) if a != b]
            assert (changed == source.marked) == (candidate.kind != "context")
            assert len(changed) == 1


@pytest.fixture(scope="module")
def byte_pairs() -> Subject:
    """A subject with a byte-level tokenizer: tokens carry their spaces, and some are parts of a character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the quick fox jumps over the quiet dog, and the fox sleeps"] * 5, trainer)
    size = tokenizer.get_vocab_size()
    manifest = SimpleNamespace(decomposition=SimpleNamespace(vocab_size=size))
    harvest = SimpleNamespace(tokenizer=tokenizer, manifest=manifest)
    return Subject(harvest, SimpleNamespace(max_seq_len=64))


@given(st.lists(st.integers(0, 319), min_size=1, max_size=8), st.data())
def test_a_spelt_text_reads_back_as_meant_with_any_tokenizer(byte_pairs, tokens, data):
    size = byte_pairs.harvest.tokenizer.get_vocab_size()
    tokens = [token % size for token in tokens]
    at = data.draw(st.integers(0, len(tokens) - 1))
    meant = MarkedText(tokens, [at])
    text = spelt(byte_pairs, meant)
    assert text is None or byte_pairs.marked_tokens_of(text) == meant


def test_a_mark_stands_after_the_space_of_its_word(byte_pairs):
    read = byte_pairs.marked_tokens_of("the quick fox")
    assert byte_pairs.harvest.tokenizer.id_to_token(read.tokens[-1]) == "Ġfox"
    assert spelt(byte_pairs, MarkedText(read.tokens, [len(read.tokens) - 1])) == "the quick «fox»"


def test_the_trigger_of_an_unmarked_positive_comes_from_the_harvest(subject):
    rule = planted(subject).rule("city-0")
    text = f"anna sees the fox near {rule.tokens[0]} today"
    candidates = ask(subject, rule.key, positives=[text]).candidates
    swapped = [c.text.split() for c in candidates if c.kind in ("neighbour", "like frequency")]
    assert swapped
    assert all("«" not in c.text for c in candidates)
    assert all(words[5] != rule.tokens[0] and words[:5] == text.split()[:5] for words in swapped)


def test_marks_say_where_a_text_is_judged(subject):
    rule = planted(subject).rule("city-0")
    city = rule.tokens[0]
    texts = {"positives": [f"the fox sees «{city}»", f"a dog and «{city}»"], "negatives": [f"{city} is the «fox»"]}
    misses = [c.text for c in ask(subject, rule.key, **texts).candidates if city not in c.text.split("«")[1]]
    found = ask(subject, rule.key, **texts, near_misses=misses[:3])
    negative = next(text for text in found.texts if text.group == "negative")
    assert negative.firing_positions == [0]
    assert negative.judged_positions == [3]
    assert not negative.fired
    assert negative.as_label_says
    assert found.confusion.true_negatives == found.n_negative == 4
    assert found.n_near_misses == 3


def test_results_replay_and_survive_json(subject):
    rule = planted(subject).rule("city-0")
    found = judged(subject, rule.key, rule)
    assert read_result(found.model_dump_json()) == found
    assert replay(subject, found).identical
    proposal = ask(subject, rule.key, positives=["the fox", "a dog today"])
    assert read_result(proposal.model_dump_json()) == proposal


def test_a_text_counts_once(subject):
    key = key_of(subject, "city-0")
    with pytest.raises(SpdToolsError, match="given twice"):
        ask(subject, key, positives=["the fox sees a dog", "the «fox» sees a dog"])
    with pytest.raises(SpdToolsError, match="given twice"):
        ask(subject, key, positives=["the fox"], negatives=["the fox"])


@pytest.mark.parametrize(
    ("first", "n", "added"), [(0, 5, ""), (3, 7, ""), (0, 12, ""), (10, 8, "fox"), (20, 30, "fox")]
)
def test_what_stands_in_the_harvest_is_no_new_text(subject, first, n, added):
    """Whoever knows the rows knows where the component fires in them, also in rows of which no example is shown."""
    tokens = subject.row(subject.harvest.n_rows - 1)[first : first + n]
    text = " ".join([*(planted(subject).words[token] for token in tokens), added]).strip()
    for group in ("positives", "negatives"):
        with pytest.raises(SpdToolsError, match="stands in the harvested rows"):
            ask(subject, key_of(subject, "city-0"), **{"positives": ["the fox sees «san» again"], group: [text]})


def test_what_stands_nowhere_in_the_harvest_is_a_new_text(subject):
    words = planted(subject).words
    assert ask(subject, key_of(subject, "city-0"), positives=[" ".join([words[3]] * 12)])


def test_the_label_is_part_of_the_question(subject):
    asked = {"positives": ["the fox sees «san» again"]}
    plain, first, second = (
        ask(subject, key_of(subject, "city-0"), **asked, **label)
        for label in ({}, {"label": "cities"}, {"label": "\x1b towns"})
    )
    assert len({plain.id, first.id, second.id}) == 3
    assert first.candidates == second.candidates  # of the same positives and seed
    assert read_result(second.model_dump_json()) == second
    tested = ask(subject, key_of(subject, "city-0"), **asked, label="cities", near_misses=[first.candidates[0].text])
    assert "texts written from the label 'cities', 1 of them near misses" in tested.population


def test_only_proposed_near_misses_are_taken(subject):
    with pytest.raises(SpdToolsError, match="no near miss that was proposed"):
        ask(subject, key_of(subject, "city-0"), positives=["the fox sees «san»"], near_misses=["a «dog» sleeps"])


def test_texts_whose_lengths_alone_tell_are_refused(subject):
    rule = planted(subject).rule("random")
    rng = random.Random(0)
    words = planted(subject).words
    texts = [" ".join(words[token] for token in sentence(subject, rng)) for _ in range(4)]
    candidates = ask(subject, rule.key, positives=texts).candidates
    short = [f"{word} slowly" for word in ("fox", "dog", "cat", "hen", "owl", "bear", "goat", "seal")]
    with pytest.raises(SpdToolsError, match="fires at random would score"):
        ask(subject, rule.key, positives=texts, negatives=short, near_misses=[candidates[0].text])


def test_words_that_the_tokenizer_does_not_know_give_no_near_miss(subject):
    with pytest.raises(SpdToolsError, match="No near miss can be made"):
        ask(subject, key_of(subject, "city-0"), positives=["xyzzy quux"])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_equal_lengths_give_chance(lengths):
    assert blind_score(lengths, lengths) == pytest.approx(0.5)
    longer = [length + 1 for length in lengths]
    assert blind_score(longer, lengths) > 0.5
    assert blind_score(lengths, longer) < 0.5 + 1e-12


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_fishers_test_is_that_of_scipy(n_a, n_b, data):
    from scipy.stats import fisher_exact as reference

    a, b = data.draw(st.integers(0, n_a)), data.draw(st.integers(0, n_b))
    expected = reference([[a, n_a - a], [b, n_b - b]]).pvalue
    assert fisher_exact(a, n_a, b, n_b) == pytest.approx(expected)
