"""Substitution sweeps on components with known triggers."""

from __future__ import annotations

import pytest
from planted_subjects import SEEDS, any_words, assert_calibrated, assert_detected, do, null_results, planted

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import make_request

SMALL = {"n_contexts": 12, "n_controls": 3}


def condition(subject, name):
    return planted(subject).rule(name).condition


def word(subject, name, at=0):
    return planted(subject).rule(name).tokens[at]


def triggers(subject):
    """(rule, parameters, whether the candidate raises the response): every planted trigger that a token can be."""
    tokens = ("because", "why", "weak-token", "strong-token", "city-0", "person", "place", "colour", "category")
    for name in (*tokens, "tail-marker", "late-tail-marker", "duplicate-a", "lookalike", "sentence-end"):
        yield name, {"tokens": [word(subject, name)]}, True
    before = {"after-the": 1, "after-number": 1, "after-person": 1, "after-city": 1, "suppress-after-and": 1}
    for name, distance in {**before, "two-after-colour": 2, "two-after-weather": 2, "three-after-question": 3}.items():
        yield name, {"tokens": [word(subject, name)], "offset": -distance}, True
    for name in ("bigram-city-0", "bigram-city-1", "bigram-the", "bigram-number", "bigram-connective"):
        pair = condition(subject, name)
        yield name, {"tokens": [min(pair.firsts)], "offset": -1, "base": "firing"}, True
        yield name, {"tokens": [min(pair.seconds)], "offset": 0, "base": "firing"}, True
    for name in ("gate-colour", "gate-connective", "gate-determiner"):
        gate = condition(subject, name)
        for distance in (1, 2, 3):
            yield name, {"tokens": [min(gate.blockers)], "offset": -distance, "base": "firing"}, False
    for name in ("person-place", "negated-question"):
        both = condition(subject, name)
        on = most_common(subject, both.right)
        yield name, {"tokens": [min(both.left)], "offset": -2, "on": on}, True
    yield "weekday", {"tokens": ["sunday"]}, False
    yield "mood", {"tokens": [word(subject, "mood", -1)], "offset": -1}, False
    yield "negated-verb", {"tokens": ["not"], "offset": -1, "on": word(subject, "negated-verb")}, True
    yield "plain-act", {"tokens": ["not"], "offset": -1, "base": "firing"}, False
    yield "bare-noun", {"tokens": [word(subject, "bare-noun", -1)], "offset": -1, "base": "firing"}, False
    yield "after-duplicates", {"tokens": [word(subject, "after-duplicates")], "offset": -1}, True


def most_common(subject, tokens):
    counts = subject.harvest.vocabulary("input")
    return max(tokens, key=lambda token: int(counts[token]))


def found(subject, name, parameters, raises):
    result = do(subject, "sweep", name, **SMALL, **parameters)
    assert result.effect is not None
    right_way = (result.effect.value > result.control.value) == raises
    return result.p_value <= 0.05 and bool(result.excludes_control) and right_way


def test_triggers_are_found_and_random_components_have_none(short_subjects):
    assert_calibrated(
        null_results(
            short_subjects,
            "sweep",
            lambda subject, rng: {"tokens": any_words(subject, rng, 1), "offset": -int(rng.integers(4)), **SMALL},
        )
    )
    assert_detected(
        ((seed, name, parameters), found(short_subjects[seed], name, parameters, raises))
        for seed in SEEDS
        for name, parameters, raises in triggers(short_subjects[seed])
    )


def test_the_trigger_stands_out_among_many_candidates(subject):
    others = ["the", "rain", "new", "in", "forest"]
    result = do(subject, "sweep", "because", tokens=[*others, "because"], n_contexts=16)
    assert subject.harvest.token_text(result.chosen) == "because"
    by_text = {token.text: token for token in result.tokens}
    assert list(by_text) == [*others, "because"]
    assert by_text["because"].response.value == 2
    assert by_text["because"].firing_rate == 1
    assert by_text["because"].p_value <= 0.05
    assert all(by_text[text].p_value > 0.05 for text in others)


def test_of_several_candidates_the_main_numbers_come_from_the_other_half_of_the_contexts(subject):
    many = do(subject, "sweep", "because", tokens=["the", "because"], n_contexts=10)
    assert many.n == 10
    assert many.effect.n == many.control.n == 5
    one = do(subject, "sweep", "because", tokens=["because"], n_contexts=10)
    assert one.effect.n == 10


def test_a_blocked_gate_is_seen_against_the_unchanged_contexts(subject):
    result = do(subject, "sweep", "gate-determiner", tokens=["the"], offset=-2, base="firing", n_contexts=8)
    assert result.effect.value == 0
    assert result.unchanged.value > 0.5


def test_contexts_can_be_those_of_one_token(subject):
    result = do(subject, "sweep", "bigram-city-1", tokens=["costa"], offset=-1, on="rica", n_contexts=8)
    assert result.effect.value == 1.5
    assert "'rica'" in result.population


def test_firing_is_a_response_of_0_or_1(subject):
    result = do(subject, "sweep", "weak-token", tokens=["plane"], response="firing", n_contexts=8)
    assert (result.effect.value, result.control.value) == (1, 0)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"tokens": ["the", "the"]}, "given twice"),
        ({"tokens": ["no such word"]}, "not"),
        ({"tokens": ["the"], "offset": -64}, "64 tokens before it"),
        ({"tokens": ["the"], "base": "silent", "on": "because"}, "without a firing"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(subject, parameters, says):
    with pytest.raises(SpdToolsError, match=says):
        do(subject, "sweep", "because", **parameters)


@pytest.mark.parametrize("parameters", [{}, {"tokens": []}, {"tokens": ["the"], "offset": 1}, {"tokenz": ["the"]}])
def test_parameters_that_do_not_fit_are_named(parameters):
    with pytest.raises(SpdToolsError, match=r"token|offset"):
        make_request("sweep", {"key": "h.0.mlp.down_proj:1", **parameters})
