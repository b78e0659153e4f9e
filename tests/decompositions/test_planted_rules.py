"""The planted rules against the model: what is written down is what happens."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_tools.decompositions.planted import PlantedDecomposition, load_planted

GATING, RANKING = "causal_importance", "component_activation"
N_ROWS = 500


@pytest.fixture(scope="module", params=[0, 3])
def planted(request) -> PlantedDecomposition:
    return load_planted(request.param)


@pytest.fixture(scope="module")
def rows(planted) -> np.ndarray:
    return planted.corpus(N_ROWS)


@pytest.fixture(scope="module")
def measured(planted, rows) -> dict[str, np.ndarray]:
    """Kind -> [rows, seq, all components]."""
    with torch.inference_mode():
        activations = planted(torch.from_numpy(rows)).activations
    return {kind: torch.cat(list(layers.values()), -1).numpy() for kind, layers in activations.items()}


def at(planted: PlantedDecomposition, name: str) -> int:
    """Flat index of a rule."""
    return list(planted.rules).index(planted.rule(name).key)


def read(planted: PlantedDecomposition, name: str, text: str) -> list[float]:
    """A component's activations on a text, by the model; the oracle must agree."""
    tokens = planted.tokenizer.encode(text).ids
    key = planted.rule(name).key
    layer, _, index = key.rpartition(":")
    values = planted(torch.tensor([tokens])).activations[RANKING][layer][0, :, int(index)].tolist()
    assert values == [planted.rules[key].activation(tokens, position) for position in range(len(tokens))]
    return values


def test_every_activation_of_the_corpus_equals_the_rule(planted, rows, measured):
    # 40 rows x 64 positions x all components
    for row in range(40):
        tokens = rows[row].tolist()
        expected = np.array([[r.activation(tokens, t) for r in planted.rules.values()] for t in range(len(tokens))])
        fires = np.array([[r.fires(tokens, t) for r in planted.rules.values()] for t in range(len(tokens))])
        np.testing.assert_array_equal(measured[RANKING][row], expected)
        np.testing.assert_array_equal(measured[GATING][row] > 0, fires)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_every_activation_of_any_text_equals_the_rule(planted, data):
    rules = list(planted.rules.values())
    # Words of one or two rules: text in which triggers, blockers and partners meet far more often than in the corpus.
    words = {
        word for rule in data.draw(st.lists(st.sampled_from(rules), min_size=1, max_size=2)) for word in rule.tokens
    }
    pool = [planted.words.index(word) for word in sorted(words)] or list(range(planted.vocab_size))
    token = st.one_of(st.sampled_from(pool), st.integers(0, planted.vocab_size - 1))
    tokens = data.draw(st.lists(token, min_size=1, max_size=planted.max_seq_len))
    activations = planted(torch.tensor([tokens])).activations[RANKING]
    measured = torch.cat(list(activations.values()), -1)[0].numpy()
    expected = np.array([[rule.activation(tokens, t) for rule in rules] for t in range(len(tokens))])
    np.testing.assert_array_equal(measured, expected)


def test_a_rule_looks_only_back(planted, rows):
    tokens = rows[0].tolist()
    for rule in planted.rules.values():
        assert rule.activation(tokens, 30) == rule.activation(tokens[:31], 30)


def test_no_activation_is_near_the_threshold(planted, measured):
    distance = np.abs(np.abs(measured[RANKING]) - 3 / 16)
    assert distance.min() >= 1 / 16
    # Multiples of 1/8 cannot come nearer, whatever the text.
    assert np.array_equal(measured[RANKING] * 8, np.rint(measured[RANKING] * 8))


def test_causal_importance_is_the_clamped_activation(measured):
    np.testing.assert_array_equal(measured[GATING], np.clip(np.abs(measured[RANKING]) - 3 / 16, 0, 1))


def test_everything_but_the_dead_fires_often_enough_to_be_seen(planted, measured):
    counts = (measured[GATING] > 0).sum((0, 1))
    for rule, count in zip(planted.rules.values(), counts, strict=True):
        assert count == 0 if rule.kind == "dead" else count >= 20, (rule.name, count)


def test_there_are_several_of_each_interesting_kind(planted):
    kinds = Counter(rule.kind for rule in planted.rules.values())
    several = ("token", "bigram", "gate", "conjunction", "position", "category", "tail_marker", "random", "suppressor")
    assert all(kinds[kind] >= 2 for kind in (*several, "dead", "polarity", "reader"))
    assert (kinds["always"], kinds["duplicate"]) == (1, 4)
    assert 40 <= len(planted.rules) <= 64
    assert len(planted.layers) == 3


def test_the_extreme_members_are_rare_but_there(planted, measured):
    for name, extreme, usual in (("tail-marker", 10.0, 2.0), ("late-tail-marker", 6.0, 1.0)):
        values = measured[RANKING][..., at(planted, name)]
        firing = values[values >= 0.25]
        assert (firing == extreme).sum() >= 5
        assert (firing == extreme).mean() < 0.06
        assert firing[firing < extreme].max() == usual


def test_faint_activations_do_not_fire(planted, measured):
    for name in ("tail-marker", "dead-whisper", "dead-whisper-day"):
        index = at(planted, name)
        faint = measured[RANKING][..., index] == 0.125
        assert faint.sum() >= 20
        assert not measured[GATING][..., index][faint].any()


@pytest.mark.parametrize("stem", ["duplicate", "time-duplicate"])
def test_duplicates_fire_alike_and_write_alike(planted, measured, stem):
    one, other = planted.rule(f"{stem}-a").key, planted.rule(f"{stem}-b").key
    indices = [at(planted, f"{stem}-{letter}") for letter in "ab"]
    np.testing.assert_array_equal(*(measured[RANKING][..., index] for index in indices))
    layer, _, first = one.rpartition(":")
    second = other.rpartition(":")[2]
    assert torch.equal(planted.write_vectors(layer)[int(first)], planted.write_vectors(layer)[int(second)])


def test_the_lookalike_fires_with_the_duplicates_but_does_something_else(planted, measured):
    np.testing.assert_array_equal(
        *(measured[GATING][..., at(planted, name)] > 0 for name in ("duplicate-a", "lookalike"))
    )
    assert not planted.rule("duplicate-a").effects.keys() & planted.rule("lookalike").effects.keys()


@pytest.mark.parametrize("name", ["gate-colour", "gate-connective", "gate-determiner"])
def test_gates_open_and_close_in_the_corpus(planted, rows, measured, name):
    condition = planted.rule(name).condition
    wanted = np.isin(rows, list(condition.strengths))
    fires = measured[GATING][..., at(planted, name)] > 0
    assert not (fires & ~wanted).any()
    assert (fires & wanted).sum() >= 20
    assert (~fires & wanted).sum() >= 20


@pytest.mark.parametrize("name", ["gate-colour", "gate-connective", "gate-determiner"])
def test_a_gate_is_blocked_for_exactly_three_tokens(planted, name):
    condition = planted.rule(name).condition
    token, strength = next(iter(condition.strengths.items()))
    wanted, blocker = planted.words[token], planted.words[min(condition.blockers)]
    assert read(planted, name, wanted) == [strength]
    for gap in range(5):
        text = " ".join([blocker, *["sleeps"] * gap, wanted])
        assert read(planted, name, text)[-1] == (0.0 if gap < 3 else strength)


@pytest.mark.parametrize("name", ["person-place", "number-noun", "negated-question"])
def test_a_conjunction_wants_both_within_four_tokens_in_either_order(planted, name):
    condition = planted.rule(name).condition
    left, right = (planted.words[min(side)] for side in (condition.left, condition.right))
    for one, other in ((left, right), (right, left)):
        assert read(planted, name, f"{one} , , {other}") == [0.0, 0.0, 0.0, 1.0]
        assert read(planted, name, f"{one} , , , {other}")[-1] == 0.0
        assert not any(read(planted, name, f"{one} , {one} , {one}"))


def test_a_bigram_wants_the_order(planted):
    for name in ("bigram-city-0", "bigram-city-1"):
        first, second = planted.rule(name).tokens
        assert read(planted, name, f"{first} {second}") == [0.0, 1.5]
        assert not any(read(planted, name, f"{second} {first} , {second}"))


def test_positional_components_ignore_the_token_or_weigh_it(planted, measured):
    first, late, early = (
        measured[RANKING][..., at(planted, n)] for n in ("first-position", "late-position", "early-stop")
    )
    assert (first[:, 0] == 1).all()
    assert not first[:, 1:].any()
    np.testing.assert_array_equal(late, np.tile(np.maximum(0, np.arange(64) - 40) / 8, (N_ROWS, 1)))
    fires = (early >= 0.25).any(0)
    assert fires[1:15].all()  # no row starts with a stop
    assert not fires[15:].any()


@pytest.mark.parametrize(("name", "share"), [("random", 4 / 32), ("random-rare", 1 / 32), ("late-random", 3 / 32)])
def test_the_random_components_cannot_be_told_from_token_or_position(planted, rows, measured, name, share):
    fires = measured[GATING][:, 3:, at(planted, name)] > 0
    assert abs(fires.mean() - share) < 5 * np.sqrt(share / fires.size)
    for values in (rows[:, 3:], np.broadcast_to(np.arange(3, 64), fires.shape)):
        for value, count in zip(*np.unique(values, return_counts=True), strict=True):
            # Five standard deviations, and as much again for phrases that recur word by word.
            spread = np.sqrt(share * (1 - share) / count)
            assert count < 200 or abs(fires[values == value].mean() - share) < 10 * spread


def test_signed_components_fire_on_both_sides(planted, measured):
    for name in ("weekday", "mood"):
        values = measured[RANKING][..., at(planted, name)]
        assert (values <= -1).sum() >= 20
        assert (values >= 1).sum() >= 20


def test_output_effects_agree_with_what_comes_next(planted, rows, measured):
    """Where a component raises a word by 2 logits or more, that word is more frequent next than elsewhere."""
    following = rows[:, 1:]
    for rule, index in ((planted.rule(f"city-{n}"), at(planted, f"city-{n}")) for n in range(5)):
        (word,) = rule.effects
        fires = measured[GATING][:, :-1, index] > 0
        hits = following == planted.words.index(word)
        assert hits[fires].mean() > 0.5
        assert hits[~fires].mean() < 0.05


def test_descriptions_name_their_words(planted):
    for rule in planted.rules.values():
        assert rule.description.partition(";")[2], rule.name
        assert set(rule.tokens) | set(rule.effects) <= set(planted.words)
    assert len({rule.name for rule in planted.rules.values()}) == len(planted.rules)
