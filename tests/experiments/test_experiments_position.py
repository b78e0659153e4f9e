"""Position and distance sweeps on components that care and on ones that do not."""

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
from spd_tools.experiments.statistics import profile_test

POSITIONAL = ("late-position", "first-position", "early-stop")
MOVABLE = ("because", "bigram-city-1", "recent-person", "after-the", "always", "number-noun", "after-duplicates")
SMALL = {"n_contexts": 12, "n_draws": 2}


@pytest.mark.long
def test_positional_components_are_found_and_others_are_not(subjects, short_subjects):
    assert_calibrated(
        null_results(
            short_subjects,
            "position",
            lambda subject, rng: {"at": "random", "n_contexts": 12, "n_draws": 1, "n_positions": 8},
        )
    )

    def cares(subject, name):
        result = do(subject, "position", name, **SMALL)
        return result.p_value <= 0.05 and bool(result.excludes_control)

    assert_detected(((seed, name), cares(subjects[seed], name)) for seed in SEEDS for name in POSITIONAL)
    # What a rule says to depend on tokens alone does not vary at all.
    assert [(s, name) for s in SEEDS for name in MOVABLE if cares(subjects[s], name)] == []


def distances(subject):
    """(rule, parameters, distances at which the cue matters); of larger classes more controls are needed."""
    rules = planted(subject)
    person, verbs = rules.rule("recent-person").tokens[0], rules.rule("negated-verb").condition.wanted
    yield "recent-person", {"cue": person, "n_controls": 199}, {1, 2, 3}
    yield "recent-negation", {"cue": "not"}, {1, 2, 3}
    yield "two-after-colour", {"cue": rules.rule("two-after-colour").tokens[0]}, {2}
    yield "three-after-question", {"cue": "why", "n_controls": 99}, {3}
    yield "after-the", {"cue": "the"}, {1}
    yield "negated-verb", {"cue": "not", "on": sorted(verbs)}, {1, 2, 3}
    pair = rules.rule("number-noun").condition
    yield "number-noun", {"cue": min(pair.left), "on": sorted(pair.right), "n_controls": 99}, {1, 2, 3}
    gate = rules.rule("gate-determiner").condition
    yield "gate-determiner", {"cue": "the", "on": sorted(gate.strengths), "n_contexts": 12, "n_controls": 99}, {1, 2, 3}


def matter(result):
    return {point.at for point in result.points if point.p_value <= 0.05}


FEW = {"mode": "distance", "max_distance": 2, "n_contexts": 4, "n_draws": 1, "n_controls": 19}


@pytest.mark.long
def test_distances_of_cues_are_found_and_random_components_have_none(short_subjects):
    assert_calibrated(
        null_results(short_subjects, "position", lambda subject, rng: {"cue": any_words(subject, rng, 1)[0], **FEW})
    )
    tries = []
    small = {"mode": "distance", "max_distance": 4, "n_contexts": 4, "n_draws": 1}
    for seed in SEEDS:
        for name, parameters, expected in distances(short_subjects[seed]):
            result = do(short_subjects[seed], "position", name, **{**small, **parameters})
            hit = matter(result) == expected and result.chosen in expected and bool(result.excludes_control)
            tries.append(((seed, name, matter(result), result.summary), hit))
    assert_detected(tries)


@pytest.mark.long
def test_random_cues_have_no_effect_where_every_token_has_one(dense):
    results = dense_nulls(dense, "position", lambda rng: {"cue": seen_tokens(dense, rng, 1)[0], **FEW})
    assert_calibrated(results)
    assert sum(bool(matter(result)) for result in results) <= MOST_FALSE_POSITIVES


def test_the_profile_of_a_late_component_is_its_rule(subject):
    result = do(subject, "position", "late-position", n_positions=64, n_contexts=2, n_draws=1)
    assert {point.at: point.response.value for point in result.points} == {
        at: max(0, at - 40) / 8 for at in range(3, 64)
    }
    assert result.chosen == 63


def test_a_component_of_the_first_position_is_moved_from_there(subject):
    result = do(subject, "position", "first-position", **SMALL)
    assert result.chosen == 0
    assert (result.effect.value, result.control.value) == (1, 0)
    assert result.points[0].at == 0
    assert all(point.response.value == 0 for point in result.points[1:])


def test_distances_have_the_strengths_of_the_rule(subject):
    cue = planted(subject).rule("recent-person").tokens[0]
    result = do(
        subject, "position", "recent-person", mode="distance", cue=cue, max_distance=4, n_contexts=12, n_draws=2
    )
    means = [point.response.value - point.control.value for point in result.points]
    np.testing.assert_allclose(means[:4], [2, 1, 0.5, 0], atol=0.15)


def test_the_main_numbers_of_a_distance_are_measured_where_it_was_not_chosen(subject):
    result = do(subject, "position", "after-the", mode="distance", cue="the", n_contexts=6, n_draws=1, n_controls=19)
    assert (result.chosen, result.p_value) == (1, 1 / 20)
    assert result.effect.n == 3
    assert result.control.n == 19
    assert result.p_value == min(point.p_value for point in result.points)
    assert result.points[0].control.low <= result.points[0].control.value <= result.points[0].control.high
    assert result.matching.high < 1  # the most frequent word
    assert "with 19 tokens of like frequency (p = 0.05). Controls of" in result.summary


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"mode": "distance"}, "needs the cue"),
        ({"cue": "the"}, "moves no cue"),
        ({"mode": "distance", "cue": "the", "max_distance": 64}, "64 tokens before it"),
        ({"mode": "distance", "cue": "nonsense"}, "nonsense"),
        ({"mode": "distance", "cue": "the", "n_controls": 4}, "no p-value reaches 0.05"),
        ({"on": ["the"]}, "no firing"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(subject, parameters, says):
    with pytest.raises(SpdToolsError, match=says):
        do(subject, "position", "because", **parameters)


def test_the_profile_test_takes_contexts_that_lack_columns():
    rng = np.random.default_rng(0)
    values = np.tile([0.0, 0, 0, 1], (10, 1))
    values[::2, 0] = np.nan
    assert profile_test(values, rng) <= 0.01
    assert profile_test(np.full((3, 4), np.nan), rng) == 1
    assert profile_test(np.ones((5, 3)) + 1e-9 * rng.random((5, 3)), rng) == 1
