"""The reference itself, on what can be worked out by hand."""

import numpy as np
import pytest
from reference import Input, harvest, histogram_bin, is_logged, mix, sampling_key


@pytest.fixture
def tiny():
    """One row of four, the third excluded, two components: one fires at 0, 1, 2, the other at 1, 3."""
    gate = np.array([[[0.5, 0], [1, 0.25], [1, 0], [0, 1]]], np.float32)
    value = np.array([[[2, 1], [-3, 1], [9, 1], [0.5, -1]]], np.float32)
    next_token = np.zeros((1, 4, 3), np.float32)
    next_token[:, :] = [0.75, 0.125, 0.0005]
    return Input(
        tokens=np.array([[2, 0, 1, 2]]),
        lengths=[4],
        excluded=np.array([[False, False, True, False]]),
        activations={"gate": gate, "value": value},
        probabilities=next_token,
        gating="gate",
        ranking="value",
        window=1,
        n_top=1,
    )


def test_counts_by_hand(tiny):
    counted = harvest(tiny)
    assert (counted.n_tokens, counted.n, counted.pairs) == (3, [2, 2], {(0, 1): 1})
    assert counted.input_counts == [{2: 1, 0: 1}, {0: 1, 2: 1}]
    assert counted.vocabulary_input == {2: 2, 0: 1}


def test_mass_by_hand(tiny):
    counted = harvest(tiny)
    assert counted.output_units[0] == {0: 2 * 3 * 2**31, 1: 2 * 2**30}
    assert counted.dropped_units[0] == 2 * (2**33 - 3 * 2**31 - 2**30)


def test_sums_by_hand(tiny):
    counted = harvest(tiny)
    assert counted.sums["value"][0] == 2 - 3 + 0.5
    assert counted.firing_sums["value"][0] == -1
    assert counted.abs_firing_sums["value"][0] == 5


def test_top_example_by_hand(tiny):
    (example,) = harvest(tiny).top[0]
    assert (example.row, example.position, example.start) == (0, 1, 0)
    assert example.activations == {"gate": [0.5, 1, None], "value": [2, -3, None]}


def test_hash_is_splitmix64():
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # first output of splitmix64 seeded with 0


def test_every_number_of_the_key_counts():
    keys = {
        sampling_key(*numbers) for numbers in [(0, 1, 2, 3), (1, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2), (0, 3, 2, 1)]
    }
    assert len(keys) == 5


def test_share_of_logged_rows():
    assert sum(is_logged(0, row, 0.25) for row in range(4000)) == pytest.approx(1000, abs=110)
    assert all(is_logged(0, row, 1) for row in range(100))


@pytest.mark.parametrize(
    ("value", "bin_"),
    [(0.0, 0), (-0.0, -1), (1.0, 257), (1.124, 257), (1.125, 258), (-1.125, -259), (2.0, 265), (2.0**32, 513)],
)
def test_histogram_bins_by_hand(value, bin_):
    assert histogram_bin(value) == bin_
