"""Intervals cover, tests keep their level, corrections are what their authors wrote."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.experiments import statistics
from spd_tools.experiments.contrasts import Arm, mean_and_difference, mean_beside, said, stands_out
from spd_tools.experiments.records import Estimate
from spd_tools.experiments.statistics import (
    bootstrap_mean,
    exchange_test,
    holm,
    mean_of_shares,
    profile_test,
    sign_flip_test,
    wilson,
)

RNG = np.random.default_rng


def test_a_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    rng = RNG(0)
    hits = 0
    for _ in range(400):
        estimate = bootstrap_mean(rng.exponential(1, 30), rng)
        hits += estimate.low <= 1 <= estimate.high
    assert 0.88 <= hits / 400 <= 0.98


def test_a_bootstrap_needs_observations():
    assert bootstrap_mean(np.array([]), RNG(0)) is None
    assert bootstrap_mean(np.array([2.0]), RNG(0)) == Estimate(value=2, low=None, high=None, n=1)
    assert bootstrap_mean(np.full(9, 2.0), RNG(0)) == Estimate(value=2, low=2, high=2, n=9)


def test_a_large_bootstrap_is_drawn_in_blocks():
    estimate = bootstrap_mean(np.arange(50_000.0), RNG(0))
    assert estimate.value == 24_999.5
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 50_000 / np.sqrt(12) / np.sqrt(50_000), rel=0.1)


def level(p_value_of):
    """Share of 800 nulls with p <= 0.05."""
    rng = RNG(1)
    return sum(p_value_of(rng) <= 0.05 for _ in range(800)) / 800


@pytest.mark.parametrize(
    "draw", [lambda rng, size: rng.exponential(1, size), lambda rng, size: rng.integers(0, 2, size)]
)
def test_tests_keep_their_level(monkeypatch, draw):
    monkeypatch.setattr(statistics, "PERMUTATIONS", 499)
    monkeypatch.setattr(statistics, "_PROFILE_PERMUTATIONS", 499)
    most = 0.05 + 3 * (0.05 * 0.95 / 800) ** 0.5  # three standard errors
    assert level(lambda rng: exchange_test(draw(rng, 12), draw(rng, (12, 3)), rng)) <= most
    assert level(lambda rng: sign_flip_test(draw(rng, 12) - draw(rng, 12), rng)) <= most
    assert level(lambda rng: profile_test(draw(rng, (8, 5)), rng)) <= most


def test_tests_find_what_is_there():
    rng = RNG(2)
    assert exchange_test(rng.normal(2, 1, 20), rng.normal(0, 1, (20, 4)), rng) < 0.001
    assert exchange_test(rng.normal(-2, 1, 20), rng.normal(0, 1, (20, 4)), rng) < 0.001
    assert sign_flip_test(rng.normal(1, 1, 30), rng) < 0.001
    assert profile_test(rng.normal(0, 1, (20, 5)) + np.arange(5), rng) == 0.001


def test_an_exchange_test_is_that_of_all_exchanges():
    values = np.array([[3.0, 1.0, 0.0], [2.0, 2.5, 0.5], [4.0, 0.0, 1.0]])
    centred = values - values.mean(1, keepdims=True)
    sums = [abs(sum(pick)) for pick in itertools.product(*centred)]
    exact = np.mean(np.array(sums) >= abs(centred[:, 0].sum()) - 1e-12)
    assert exchange_test(values[:, 0], values[:, 1:], RNG(0)) == pytest.approx(exact, abs=0.02)


def test_without_differences_there_is_no_significance():
    assert exchange_test(np.ones(5), np.ones((5, 2)), RNG(0)) == 1
    assert exchange_test(np.zeros(0), np.zeros((0, 2)), RNG(0)) == 1
    assert exchange_test(np.ones(5), np.zeros((5, 0)), RNG(0)) == 1
    assert sign_flip_test(np.zeros(5), RNG(0)) == 1
    assert sign_flip_test(np.zeros(0), RNG(0)) == 1


def test_rounding_is_no_difference():
    base = RNG(0).normal(5, 1, 20)
    assert exchange_test(base + 1e-7, np.tile(base[:, None], 3), RNG(0)) == 1
    assert exchange_test(base + 1e-2, np.tile(base[:, None], 3), RNG(0)) < 0.001


def test_a_p_value_is_never_zero():
    assert exchange_test(np.full(50, 9.0), np.zeros((50, 4)), RNG(0)) == 1 / 5000


# Values from Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)]
)
def test_wilson(successes, n, low, high):
    estimate = wilson(successes, n)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-4)
    assert estimate.value == successes / n
    assert wilson(0, 0) is None


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share(pair):
    successes, n = pair
    estimate = wilson(successes, n)
    assert 0 <= estimate.low <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= estimate.high <= 1


def test_the_mean_of_shares_covers():
    rng = RNG(3)
    hits = 0
    for _ in range(1000):
        both = mean_of_shares(wilson(int(rng.binomial(12, 0.9)), 12), wilson(int(rng.binomial(15, 0.7)), 15))
        hits += both.low <= 0.8 <= both.high
    assert 0.92 <= hits / 1000 <= 0.99


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_order_and_lies_between_none_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, len(p_values) * max(p_values))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_the_arm_that_stands_out_is_measured_where_it_was_not_chosen():
    context = np.arange(8)
    lucky = Arm(context, np.where(context % 2 == 0, 9.0, 0.0), np.zeros(8))
    real = Arm(context, np.full(8, -2.0), np.zeros(8))
    chosen = stands_out([real, lucky], RNG(0))
    assert (chosen.arm, chosen.effect.value, chosen.effect.n) == (1, 0, 4)
    assert stands_out([lucky], RNG(0)).effect.value == 4.5


def test_with_one_context_an_arm_is_chosen_and_not_measured():
    arms = [Arm(np.array([0]), np.array([1.0]), np.array([0.0]))] * 2
    assert stands_out(arms, RNG(0)).effect is None


def test_contexts_that_move_all_alike_do_not_widen_the_interval():
    rng = RNG(0)
    contexts, noise = rng.normal(0, 10, 50), rng.normal(0, 0.1, 50)
    mean, difference = mean_and_difference(contexts + 1 + noise, contexts, rng)
    assert mean.value == pytest.approx(contexts.mean() + 1, abs=0.1)
    assert difference.value == pytest.approx(1, abs=0.1)
    assert mean.high - mean.low == pytest.approx(difference.high - difference.low)
    assert mean.high - mean.low < 0.1


def test_the_interval_of_a_mean_holds_it_and_nothing_that_was_not_seen():
    mean, difference = mean_and_difference(np.zeros(9), np.arange(9.0), RNG(0))
    assert (mean.low, mean.value, mean.high) == (0, 0, 0)
    assert difference.low < difference.value < difference.high
    assert mean_beside(np.ones(1), np.zeros(1), RNG(0)) == Estimate(value=1, low=None, high=None, n=1)


def test_estimates_are_said_with_their_interval():
    assert said(Estimate(value=1.5, low=1.25, high=2, n=3)) == "1.5 [1.25, 2]"
    assert said(Estimate(value=1.5, low=None, high=None, n=1)) == "1.5 (no interval)"
    assert said(None) == "unknown"
