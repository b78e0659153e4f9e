"""Substitution sweeps on components with known triggers."""

from __future__ import annotations

import numpy as np
import pytest
from planted_subjects import (
    MOST_FALSE_POSITIVES,
    SEEDS,
    any_words,
    assert_calibrated,
    assert_detected,
    dense_nulls,
    do,
    null_results,
    planted,
    seen_tokens,
)

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import make_request
from spd_tools.experiments import sweep as sweeps
from spd_tools.experiments.substitution import exchanged

SMALL = {"n_contexts": 4, "n_controls": 39}
FEW = {"n_contexts": 4, "n_controls": 19}


def condition(subject, name):
    return planted(subject).rule(name).condition


def words(subject, name):
    return list(planted(subject).rule(name).tokens)


def triggers(subject):
    """(rule, parameters, whether the candidates raise the response): every planted trigger that a token can be.

    Of rules with several tokens the candidates are all of them: one word of a large class is not unlike other words.
    """
    tokens = ("because", "why", "weak-token", "strong-token", "city-0", "person", "place", "colour", "category")
    for name in (*tokens, "tail-marker", "late-tail-marker", "duplicate-a", "lookalike", "sentence-end"):
        yield name, {"tokens": words(subject, name)}, True
    before = {"after-the": 1, "after-number": 1, "after-person": 1, "after-city": 1, "suppress-after-and": 1}
    for name, distance in {**before, "two-after-colour": 2, "two-after-weather": 2, "three-after-question": 3}.items():
        yield name, {"tokens": words(subject, name), "offset": -distance}, True
    for name in ("bigram-city-0", "bigram-city-1", "bigram-the", "bigram-number", "bigram-connective"):
        pair = condition(subject, name)
        yield name, {"tokens": sorted(pair.firsts), "offset": -1, "base": "firing"}, True
        yield name, {"tokens": sorted(pair.seconds), "offset": 0, "base": "firing"}, True
    for name in ("gate-colour", "gate-connective", "gate-determiner"):
        gate = condition(subject, name)
        for distance in (1, 2, 3):
            yield name, {"tokens": sorted(gate.blockers), "offset": -distance, "base": "firing"}, False
    for name in ("person-place", "negated-question"):
        both = condition(subject, name)
        on = most_common(subject, both.right)
        yield name, {"tokens": sorted(both.left), "offset": -2, "on": on}, True
    yield "weekday", {"tokens": ["sunday"]}, False
    yield (
        "mood",
        {"tokens": [t for (_, t), s in condition(subject, "mood").strengths.items() if s < 0], "offset": -1},
        False,
    )
    yield "negated-verb", {"tokens": ["not"], "offset": -1, "on": words(subject, "negated-verb")[0]}, True
    yield "plain-act", {"tokens": ["not"], "offset": -1, "base": "firing"}, False
    qualities = [
        token for token in words(subject, "bare-noun") if token not in condition(subject, "bare-noun").strengths
    ]
    yield "bare-noun", {"tokens": qualities, "offset": -1, "base": "firing"}, False
    yield "after-duplicates", {"tokens": words(subject, "after-duplicates"), "offset": -1}, True


def most_common(subject, tokens):
    counts = subject.harvest.vocabulary("input")
    return max(tokens, key=lambda token: int(counts[token]))


def found(subject, name, parameters, raises):
    result = do(subject, "sweep", name, **SMALL, **parameters)
    assert result.effect is not None
    right_way = (result.effect.value > result.control.value) == raises
    return result.p_value <= 0.05 and bool(result.excludes_control) and right_way


@pytest.mark.long
def test_triggers_are_found_and_random_components_have_none(short_subjects):
    assert_calibrated(
        null_results(
            short_subjects,
            "sweep",
            lambda subject, rng: {"tokens": any_words(subject, rng, 1), "offset": -int(rng.integers(4)), **FEW},
        )
    )
    assert_detected(
        ((seed, name, parameters), found(short_subjects[seed], name, parameters, raises))
        for seed in SEEDS
        for name, parameters, raises in triggers(short_subjects[seed])
    )


@pytest.mark.long
@pytest.mark.parametrize("n_tokens", [1, 3])
def test_random_tokens_have_no_effect_where_every_token_has_one(dense, n_tokens):
    results = dense_nulls(
        dense,
        "sweep",
        lambda rng: {"tokens": seen_tokens(dense, rng, n_tokens), "offset": -int(rng.integers(2)), **FEW},
    )
    assert_calibrated(results)
    by_themselves = sum(any(token.p_value <= 0.05 for token in result.tokens) for result in results)
    assert by_themselves <= MOST_FALSE_POSITIVES


def test_the_trigger_stands_out_among_many_candidates(subject):
    others = ["the", "rain", "new", "in", "forest"]
    result = do(subject, "sweep", "because", tokens=[*others, "because"], n_contexts=4, n_controls=150)
    assert subject.harvest.token_text(result.chosen) == "because"
    by_text = {token.text: token for token in result.tokens}
    assert list(by_text) == [*others, "because"]
    assert by_text["because"].response.value == 2
    assert by_text["because"].firing_rate == 1
    assert by_text["because"].p_value <= 0.05
    assert all(by_text[text].p_value > 0.05 for text in others)
    assert "1 of 6 differs by itself, most of all 'because' (a mixed set: sweep one alone)" in result.summary


def test_too_few_controls_for_each_of_many_candidates_are_said(subject):
    tokens = ["because", "the", "rain"]
    result = do(subject, "sweep", "because", tokens=tokens, n_contexts=2, n_controls=39)
    assert all(token.p_value > 0.05 for token in result.tokens)
    assert "'because' differs most; none of 3 can differ by itself among 39" in result.summary
    assert "or take 59 controls" in result.summary


def test_a_category_is_found_as_a_set(subject):
    words_of = words(subject, "category")
    result = do(subject, "sweep", "category", tokens=words_of, n_contexts=2, n_controls=39)
    assert result.p_value < 0.001
    assert result.excludes_control
    assert result.effect.value == pytest.approx(np.mean([token.response.value for token in result.tokens]))
    assert result.effect.n == result.n
    assert f"with {len(words_of)} of 39 tokens of like frequency" in result.summary


def test_one_candidate_is_ranked_among_its_controls(subject):
    result = do(subject, "sweep", "because", tokens=["because"], n_contexts=3)
    varied = do(subject, "sweep", "random", tokens=["because"], n_contexts=12, n_controls=19)
    assert (varied.effect, varied.control) == (varied.tokens[0].response, varied.tokens[0].control)
    assert varied.effect.low < varied.effect.high
    line = result.tokens[0]
    assert result.p_value == line.p_value == pytest.approx(1 / 100)
    assert (result.effect, result.control) == (line.response, line.control)
    assert result.control.n == 99


def test_all_tokens_of_a_small_harvest_are_controls_at_most(subject):
    result = do(subject, "sweep", "because", tokens=["because"], n_contexts=2, n_controls=999)
    assert result.control.n == np.count_nonzero(subject.harvest.vocabulary("input")) - 1
    assert result.matching.high > 2
    assert "times its frequency: none nearer were left" in result.summary


def test_controls_are_the_same_tokens_in_all_contexts(subject, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sweeps,
        "exchanged",
        lambda contexts, which, at, to: seen.append((which, to)) or exchanged(contexts, which, at, to),
    )
    do(subject, "sweep", "because", tokens=["because"], n_contexts=4, n_controls=19)
    which, to = seen[0]
    put_in = [to[which == context].tolist()[1:] for context in range(4)]
    assert put_in[0] == put_in[1] == put_in[2] == put_in[3]
    assert len(set(put_in[0])) == 20


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
        ({"tokens": ["the"], "n_controls": 18}, "no p-value reaches 0.05"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(subject, parameters, says):
    with pytest.raises(SpdToolsError, match=says):
        do(subject, "sweep", "because", **parameters)


@pytest.mark.parametrize("parameters", [{}, {"tokens": []}, {"tokens": ["the"], "offset": 1}, {"tokenz": ["the"]}])
def test_parameters_that_do_not_fit_are_named(parameters):
    with pytest.raises(SpdToolsError, match=r"token|offset"):
        make_request("sweep", {"key": "h.0.mlp.down_proj:1", **parameters})
