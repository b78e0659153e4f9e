"""One component against its controls: exact where it is like them, whatever the distribution."""

from __future__ import annotations

import numpy as np
import pytest

from spd_tools.experiments.population import central, positive_test, prediction, signed_test

DRAWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    "mostly zero": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.1),
}
TRIES = 2000


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_like_its_controls_is_found_in_at_most_one_of_twenty(name):
    rng = np.random.default_rng(0)
    signed = positive = 0
    for _ in range(TRIES):
        values = DRAWS[name](rng, (40, 8))
        signed += signed_test(float(values[0, 0]), values[1:]) <= 0.05
        sizes = np.abs(values[:, 0])
        positive += positive_test(float(sizes[0]), sizes[1:], 1e-9) <= 0.05
    assert max(signed, positive) / TRIES < 0.05 + 3 * np.sqrt(0.05 * 0.95 / TRIES)


@pytest.mark.parametrize("kind", ["components that move everything", "components that move nothing"])
def test_a_component_counts_once_however_many_tokens_it_moves(kind):
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(TRIES):
        scale = rng.random(40) < 0.08 if kind.endswith("everything") else np.ones(40)
        values = rng.normal(1, 0.1, (40, 8)) * scale[:, None]
        found += signed_test(float(values[0, 0]), values[1:]) <= 0.05
    assert found / TRIES < 0.05 + 3 * np.sqrt(0.05 * 0.95 / TRIES)


def test_a_prediction_interval_holds_one_more_component():
    rng = np.random.default_rng(2)
    outside = 0
    for _ in range(TRIES):
        values = np.exp(rng.normal(size=20))
        found = prediction(values[1:], 1e-9)
        assert found.low <= found.value <= found.high
        outside += not found.low <= values[0] <= found.high
    assert abs(outside / TRIES - 0.05) < 3 * np.sqrt(0.05 * 0.95 / TRIES)


def test_far_beyond_all_controls_the_p_value_falls_below_one_in_their_number():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(39, 16))
    assert signed_test(50.0, values) < 1e-3
    assert signed_test(float(np.abs(values).max()) + 1e-6, values) == pytest.approx(1 / 40)
    assert positive_test(1e9, np.exp(rng.normal(size=39)), 1e-9) < 0.01


def test_few_controls_never_reject():
    assert signed_test(1e6, np.zeros((5, 4)) + np.eye(5, 4)) > 0.05
    assert positive_test(1e6, np.array([1.0, 2.0, 3.0]), 1e-9) > 0.05


def test_no_effect_among_controls_without_one_is_none():
    assert signed_test(0.0, np.zeros((39, 4))) == 1
    assert positive_test(0.0, np.zeros(39), 1e-9) == 1
    assert signed_test(1.0, np.zeros((39, 4))) == pytest.approx(1 / 40)


def test_an_interval_holds_its_mean_and_needs_three_components():
    uneven = central(np.array([0.0] * 60 + [600.0]))
    assert uneven.low <= uneven.value <= uneven.high
    assert central(np.array([1.0, 2.0])).low is None
    assert prediction(np.array([1.0, 2.0]), 1e-9).low is None
