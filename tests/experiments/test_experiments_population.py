"""One thing against its controls: exact where it is like them, whatever the distribution."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.experiments.population import (
    central,
    greater_test,
    grouped_control,
    grouped_test,
    profile_p_values,
    rank_test,
    scaled_deviations,
    signed_test,
    simultaneous_band,
)

RNG = np.random.default_rng
DRAWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    "mostly zero": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.1),
    "skewed": lambda rng, shape: np.exp(3 * rng.normal(size=shape)),
    "a few values": lambda rng, shape: rng.integers(0, 3, shape).astype(float),
}
TRIES = 2000
MOST = 0.05 + 3 * np.sqrt(0.05 * 0.95 / TRIES)


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_like_its_controls_is_found_in_at_most_one_of_twenty(name):
    rng = RNG(0)
    found = np.zeros(4)
    for _ in range(TRIES):
        values = DRAWS[name](rng, (40, 8))
        own, others = values[0], values[1:]
        found += [
            signed_test(float(own[0]), others) <= 0.05,
            greater_test(float(abs(own[0])), np.abs(others[:, 0]), 1e-9) <= 0.05,
            rank_test(float(own[0]), others[:, 0]) <= 0.05,
            profile_p_values(own, others).min() <= 0.05,
        ]
    assert found.max() / TRIES < MOST


@pytest.mark.parametrize("name", DRAWS)
def test_sets_that_are_like_their_controls_are_found_in_at_most_one_of_twenty(name, monkeypatch):
    monkeypatch.setattr("spd_tools.experiments.population.PERMUTATIONS", 199)
    rng = RNG(1)
    found = 0
    for _ in range(TRIES // 2):
        values = DRAWS[name](rng, 44)
        rare = 100 * DRAWS[name](rng, 22)
        found += grouped_test([(values[:4], values[4:]), (rare[:2], rare[2:])], rng) <= 0.05
    assert found / (TRIES // 2) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / (TRIES // 2))


def test_rank_tests_are_exact_at_one_in_twenty():
    rng = RNG(2)
    found = sum(rank_test(float(values[0]), values[1:]) <= 0.05 for values in rng.normal(size=(TRIES, 20)))
    assert abs(found / TRIES - 0.05) < 3 * np.sqrt(0.05 * 0.95 / TRIES)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_a_set_of_one_is_a_rank_and_no_rank_is_below_one_in_their_number(values):
    value, controls = values[0], np.array(values[1:])
    p = rank_test(value, controls)
    assert grouped_test([(np.array([value]), controls)], RNG(0)) == pytest.approx(p)
    assert 1 / len(values) <= p <= 1
    assert greater_test(abs(value), np.abs(controls)) >= 1 / len(values)


def test_a_set_test_is_that_of_all_subsets():
    rng = RNG(3)
    candidates, controls = rng.normal(1, 1, 2), rng.normal(size=20)
    pooled = np.concatenate([candidates, controls])
    far = [abs(pooled[list(pick)].mean() - np.delete(pooled, pick).mean()) for pick in combinations(range(22), 2)]
    exact = np.mean(np.array(far) >= far[0] - 1e-9)
    assert grouped_test([(candidates, controls)], rng) == pytest.approx(exact)
    more = np.concatenate([candidates, rng.normal(1, 1, 3)])
    assert grouped_test([(more, controls)], rng) == pytest.approx(grouped_test([(more, controls)], RNG(4)), abs=0.02)


def test_a_set_is_found_where_none_of_its_tokens_can_be():
    rng = RNG(5)
    candidates, controls = rng.normal(2, 1, 12), rng.normal(0, 1, 39)
    assert grouped_test([(candidates, controls)], rng) < 0.001
    assert min(rank_test(float(one), controls) for one in candidates) * 12 > 0.05


def test_candidates_are_compared_within_their_group():
    rng = RNG(6)
    low, high = rng.normal(0, 1, 39), rng.normal(100, 1, 39)
    assert grouped_test([(np.array([0.1]), low), (np.array([100.1]), high)], rng) > 0.5
    assert grouped_test([(np.array([5.0]), low), (np.array([105.0]), high)], rng) < 0.01
    control = grouped_control([(np.zeros(1), low), (np.zeros(1), high)], rng)
    assert control.value == pytest.approx((low.mean() + high.mean()) / 2)
    assert control.value - 2 < control.low < control.high < control.value + 2


def test_the_control_of_a_set_holds_the_mean_of_as_many_tokens():
    rng = RNG(7)
    outside = 0
    for _ in range(300):
        values = rng.exponential(size=45)
        found = grouped_control([(values[:5], values[5:])], rng)
        outside += not found.low <= values[:5].mean() <= found.high
    assert outside / 300 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_the_control_of_one_token_is_where_tokens_lie():
    controls = RNG(8).normal(size=39)
    assert grouped_control([(np.zeros(1), controls)], RNG(0)) == central(controls)
    assert grouped_control([(np.zeros(2), controls[:2])], RNG(0)).low is None


@pytest.mark.parametrize("k", [19, 39, 99])
def test_a_band_holds_one_more_profile_at_all_columns(k):
    rng = RNG(9)
    outside = rejected = 0
    for _ in range(TRIES):
        profiles = rng.normal(size=(1 + k, 6)) * np.arange(1, 7)
        low, high = simultaneous_band(profiles[1:])
        outside += not ((low <= profiles[0]) & (profiles[0] <= high)).all()
        rejected += profile_p_values(profiles[0], profiles[1:]).min() <= 0.05
    assert outside / TRIES < MOST
    assert abs(outside - rejected) / TRIES < 0.01


def test_a_band_of_controls_that_mostly_do_nothing_is_finite():
    controls = np.zeros((39, 3))
    controls[0, 0] = controls[1, 1] = controls[2, 2] = 1
    low, high = simultaneous_band(controls)
    assert (high < 10).all()
    assert (low < 0).all()
    assert [bound.tolist() for bound in simultaneous_band(np.ones((39, 2)))] == [[1, 1]] * 2


def test_the_columns_that_differ_are_named():
    rng = RNG(10)
    controls = rng.normal(size=(39, 4)) * [1, 10, 1, 100]
    p_values = profile_p_values(np.array([0, 60, 0.5, 20]), controls)
    assert p_values[1] == p_values.min() == 1 / 40
    assert (p_values[[0, 2, 3]] > 0.5).all()
    assert scaled_deviations(np.array([0, 60, 0.5, 20]), controls).argmax() == 1


@pytest.mark.parametrize("kind", ["components that move everything", "components that move nothing"])
def test_a_component_counts_once_however_many_tokens_it_moves(kind):
    rng = RNG(11)
    found = 0
    for _ in range(TRIES):
        scale = rng.random(40) < 0.08 if kind.endswith("everything") else np.ones(40)
        values = rng.normal(1, 0.1, (40, 8)) * scale[:, None]
        found += signed_test(float(values[0, 0]), values[1:]) <= 0.05
    assert found / TRIES < MOST


def test_far_beyond_all_controls_the_p_value_is_one_in_their_number():
    rng = RNG(12)
    values = rng.normal(size=(39, 16))
    assert signed_test(50.0, values) == rank_test(50.0, values[:, 0]) == 1 / 40
    assert greater_test(1e9, np.exp(rng.normal(size=39))) == 1 / 40
    assert profile_p_values(np.full(16, 50.0), values).min() == 1 / 40


def test_less_than_the_controls_is_not_greater():
    controls = RNG(13).exponential(size=39)
    assert greater_test(0.0, controls) == 1
    assert greater_test(float(controls.min()) / 2, controls) == 1


def test_few_controls_never_reject():
    assert signed_test(1e6, np.zeros((5, 4)) + np.eye(5, 4)) > 0.05
    assert greater_test(1e6, np.array([1.0, 2.0, 3.0])) > 0.05
    assert rank_test(1e6, np.zeros(18)) > 0.05
    assert rank_test(1e6, np.zeros(19)) == 0.05


def test_rounding_is_no_difference():
    controls = 5 + 1e-7 * RNG(14).normal(size=39)
    assert rank_test(5 + 1e-6, controls) == 1
    assert greater_test(5 + 1e-6, controls) == 1
    assert grouped_test([(np.full(2, 5 + 1e-6), controls)], RNG(0)) == 1
    assert (profile_p_values(np.full(3, 5 + 1e-6), np.stack([controls] * 3, 1)) == 1).all()
    assert rank_test(5.01, controls) == 1 / 40
    assert greater_test(1e-10, np.zeros(39), 1e-9) == 1


def test_no_effect_among_controls_without_one_is_none():
    assert signed_test(0.0, np.zeros((39, 4))) == 1
    assert greater_test(0.0, np.zeros(39)) == 1
    assert rank_test(0.0, np.zeros(39)) == 1
    assert (profile_p_values(np.zeros(2), np.zeros((39, 2))) == 1).all()
    assert signed_test(1.0, np.zeros((39, 4))) == 1 / 40


def test_an_interval_holds_its_mean_and_needs_three_controls():
    uneven = central(np.array([0.0] * 60 + [600.0]))
    assert uneven.low <= uneven.value <= uneven.high
    assert central(np.array([1.0, 2.0])).low is None
