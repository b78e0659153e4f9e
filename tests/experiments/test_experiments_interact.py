"""Interactions of tokens: conjunctions, gates and bigrams are recovered, everything else is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from planted_subjects import (
    MOST_FALSE_POSITIVES,
    NULL_TRIES,
    any_words,
    assert_detected,
    dense_nulls,
    do,
    key_of,
    null_results,
    planted,
    seen_tokens,
)

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import Result, Subject, make_request, read_result, replay
from spd_tools.experiments.interact import MIDDLE, InteractResult
from spd_tools.experiments.interact_runs import Place, run_grid
from spd_tools.experiments.matching import ControlTokens
from spd_tools.experiments.sites import sites

CLASS = 3  # tokens of a class that are given together: those that are left out may be controls


def interact(subject: Subject, name: str, first, second, **parameters) -> InteractResult:
    found = do(subject, "interact", name, first_tokens=first, second_tokens=second, **parameters)
    assert isinstance(found, InteractResult)
    return found


def planted_pairs(subject: Subject, seed: int) -> list[tuple[str, list[int], list[int], int, float]]:
    """(rule, first tokens, second tokens, offset of the first, sign of I) of every bigram, gate and conjunction."""
    pairs: list[tuple[str, list[int], list[int], int, float]] = []

    def add(name: str, first, second, offset: int, sign: float) -> None:
        pairs.append((name, sorted(first)[:CLASS], sorted(second)[:CLASS], offset, sign))

    for name in ("bigram-city-0", "bigram-city-1", "bigram-the", "bigram-number"):
        condition = planted(subject).rule(name).condition
        add(name, condition.firsts, condition.seconds, -1, 1)
    for back, name in enumerate(("gate-colour", "gate-connective", "gate-determiner"), start=1):
        condition = planted(subject).rule(name).condition
        add(name, condition.blockers, condition.strengths, -back, -1)
    for name in ("person-place", "number-noun", "negated-question"):
        condition = planted(subject).rule(name).condition
        add(name, *((condition.left, condition.right) if seed % 2 else (condition.right, condition.left)), -1 - seed, 1)
    return pairs


@pytest.mark.long
def test_conjunctions_gates_and_bigrams_are_recovered(short_subjects):
    assert_detected(
        (
            (seed, name, offset),
            found.p_value <= 0.05 and found.excludes_control and found.effect.value * sign > 0,
        )
        for seed, subject in short_subjects.items()
        for name, first, second, offset, sign in planted_pairs(subject, seed)
        # The fewest controls that there may be: more of them find more.
        for found in [interact(subject, name, first, second, first_offset=offset, n_contexts=12, n_controls=19)]
    )


def any_pair(rng: np.random.Generator, first: int, second: int) -> dict[str, Any]:
    offset = -int(rng.integers(1, 6))
    few = {"n_contexts": 2, "n_controls": 19}
    return {"first_tokens": [first], "second_tokens": [second], "first_offset": offset, **few}


def assert_both_places_calibrated(results: list[Result]) -> None:
    """Each of the two tests on its own; the larger of two p-values of nothing is hardly ever small."""
    for small in (
        [result.excludes_control for result in results],
        [result.p_value <= 0.05 for result in results],
        [result.p_other_first <= 0.05 for result in results],
        [result.p_other_second <= 0.05 for result in results],
    ):
        assert len(small) == NULL_TRIES
        assert sum(small) <= MOST_FALSE_POSITIVES
    assert sum(min(result.p_other_first, result.p_other_second) < 1 for result in results) >= NULL_TRIES // 5


@pytest.mark.long
def test_random_pairs_on_random_components_seldom_differ(short_subjects):
    assert_both_places_calibrated(
        null_results(short_subjects, "interact", lambda subject, rng: any_pair(rng, *any_words(subject, rng, 2)))
    )


@pytest.mark.long
def test_random_tokens_seldom_differ_where_every_token_moves_everything(dense):
    def any_tokens(rng: np.random.Generator) -> dict[str, Any]:
        pair = any_pair(rng, *seen_tokens(dense, rng, 2))
        if rng.integers(2):
            return pair
        drawn = seen_tokens(dense, rng, 4)
        return pair | {"first_tokens": drawn[:2], "second_tokens": drawn[2:]}

    results = dense_nulls(dense, "interact", any_tokens)
    assert_both_places_calibrated(results)
    # Not because nothing interacts.
    assert sum(abs(result.effect.value) > 0.01 for result in results) > NULL_TRIES / 2


@pytest.fixture(scope="module")
def city(subject) -> InteractResult:
    """A bigram, and a stranger to it in each place."""
    words = planted(subject).words
    condition = planted(subject).rule("bigram-city-0").condition
    first, second = words[min(condition.firsts)], words[min(condition.seconds)]
    return interact(subject, "bigram-city-0", [first, "monday"], [second, "tuesday"], n_contexts=4, n_controls=79)


def test_heatmap_tells_the_pairs_apart(city):
    assert np.array(city.heatmap) == pytest.approx(np.array([[1.5, 0.0], [0.0, 0.0]]), abs=1e-6)
    assert [pair.p_value for pair in city.pairs] == pytest.approx([4 / 80, 1, 1, 1])
    assert [(pair.first.text, pair.second.text) for pair in city.pairs[1:]] == [
        (city.pairs[0].first.text, "tuesday"),
        ("monday", city.pairs[0].second.text),
        ("monday", "tuesday"),
    ]
    assert city.effect.value == pytest.approx(1.5 / 4)
    assert "1 of 4 pairs differs by itself" in city.summary


def test_the_larger_of_two_p_values_counts(city):
    assert city.pairs[0].p_other_first == city.pairs[0].p_other_second == pytest.approx(1 / 80)
    assert city.p_value == max(city.p_other_first, city.p_other_second)
    assert city.p_value <= 2 / 81  # of sets of two tokens, those that hold the one that does something


def test_who_asks_for_many_pairs_is_told_how_many_controls_tell_them_apart(subject):
    found = interact(subject, "random", ["the", "a"], ["fox", "saw"], n_contexts=2, n_controls=19)
    assert "None of 4 pairs can differ by itself among 19 tokens" in found.summary
    assert "79 controls" in found.summary


def test_a_token_that_works_with_any_other_is_no_interaction_of_the_pair(subject):
    """A colour silences the component whatever stands there, but only where a colour stands."""
    condition = planted(subject).rule("gate-colour").condition
    colours, wanted = sorted(condition.blockers), min(condition.strengths)
    one = interact(subject, "gate-colour", [colours[0]], [wanted], first_offset=-2, n_contexts=6)
    assert one.effect.value < 0
    assert one.p_other_second <= 0.05 < one.p_other_first  # other colours among the controls do the same
    assert not one.excludes_control
    assert "with other tokens of like frequency in the first place, where it stands out less" in one.summary
    assert "no more than such tokens do" in one.summary


def test_controls_stand_in_the_same_contexts_with_the_same_partner(subject):
    rule = planted(subject).rule("gate-colour")
    blocker, wanted = min(rule.condition.blockers), min(rule.condition.strengths)
    request = make_request(
        "interact",
        {"key": rule.key, "first_tokens": [blocker], "second_tokens": [wanted], "n_contexts": 3, "n_controls": 19},
    )
    like = ControlTokens.like(subject.harvest, [blocker, wanted], 19, subject.rng(request, "control tokens"))
    first = Place.of(-1, np.array([blocker]), like, like.group[:1])
    second = Place.of(0, np.array([wanted]), like, like.group[1:])
    found = sites(subject, request.key, "random", 3, np.random.default_rng(0), first=1)
    grid = run_grid(subject, request.key, "ranking", found, first, second)

    def f(context: int, i: int | None, j: int | None) -> float:
        tokens, at = subject.row(int(found.row[context])).tolist(), int(found.position[context])
        tokens[at - 1 : at + 1] = [t if put is None else put for t, put in zip(tokens[at - 1 :], (i, j), strict=False)]
        return rule.activation(tokens, at)

    def expected(i: int, j: int) -> list[float]:
        return [f(n, i, j) - f(n, i, None) - f(n, None, j) + f(n, None, None) for n in range(3)]

    assert grid.interaction[0, 0].tolist() == pytest.approx(expected(blocker, wanted))
    for k in range(19):
        assert grid.other_second[0, 0, k].tolist() == pytest.approx(expected(blocker, int(second.controls[0, k])))
        assert grid.other_first[0, k, 0].tolist() == pytest.approx(expected(int(first.controls[0, k]), wanted))


def test_interaction_is_what_four_runs_give(subject):
    rule = planted(subject).rule("gate-colour")
    condition = rule.condition
    blocker, wanted = min(condition.blockers), min(condition.strengths)
    found = interact(subject, "gate-colour", [blocker], [wanted], first_offset=-2, seed=3)
    # By the oracle, over the same base population.
    rows, positions = _sites(subject, 2, found.n, seed=3)
    values = []
    for row, position in zip(rows, positions, strict=True):
        tokens = subject.row(int(row)).tolist()
        f = {}
        for i in (False, True):
            for j in (False, True):
                changed = list(tokens)
                if i:
                    changed[position - 2] = blocker
                if j:
                    changed[position] = wanted
                f[i, j] = rule.activation(changed, int(position))
        values.append(f[True, True] - f[True, False] - f[False, True] + f[False, False])
    assert found.effect.value == pytest.approx(np.mean(values), abs=1e-6)


def _sites(subject: Subject, room: int, n: int, seed: int):
    request = make_request("probe", {"key": key_of(subject, "gate-colour"), "texts": ["x"], "seed": seed})
    found = sites(subject, request.key, "random", n, subject.rng(request, "contexts"), first=room)
    return found.row, found.position


def test_mid_bases_have_room_to_go_up_and_down(subject):
    key = key_of(subject, "late-position")
    found = interact(subject, "late-position", ["the"], ["fox"], first_offset=-2, second_offset=-1, base="mid")
    largest = subject.harvest.component(key).effective_max
    pair = found.pairs[0]
    assert MIDDLE[0] * largest <= pair.neither <= MIDDLE[1] * largest
    assert found.effect.value == 0
    assert found.p_value == 1


def test_a_base_that_does_not_exist_is_said(subject):
    with pytest.raises(SpdToolsError, match="25% and 75%"):
        interact(subject, "dead-impossible", ["the"], ["fox"], base="mid")


@pytest.mark.parametrize(
    ("first", "second", "offsets", "message"),
    [
        (["the"], ["fox"], (0, 0), "two different offsets"),
        (["the", "the"], ["fox"], (-1, 0), "given twice"),
        (["the fox"], ["fox"], (-1, 0), "not one token"),
        ([], ["fox"], (-1, 0), "first_tokens"),
        (["the"], ["fox"], (1, 0), "first_offset"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(subject, first, second, offsets, message):
    with pytest.raises(SpdToolsError, match=message):
        interact(subject, "always", first, second, first_offset=offsets[0], second_offset=offsets[1])


def test_too_few_controls_for_any_p_value_are_refused(subject):
    with pytest.raises(SpdToolsError, match="at least 19"):
        interact(subject, "always", ["the"], ["fox"], n_controls=18)


def test_results_replay_and_survive_json(subject):
    found = interact(subject, "bigram-the", ["the"], ["fox", "saw"], response="gating", n_contexts=4)
    assert read_result(found.model_dump_json()) == found
    assert replay(subject, found).identical
    assert torch.get_num_threads() == 1
