import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import histogram_bin

from spd_tools.store.histogram import bin_edges, effective_max, magnitude_bins

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(floats, max_size=30))
def test_bins_equal_the_reference(values):
    assert magnitude_bins(np.array(values, np.float32)).tolist() == [histogram_bin(value) for value in values]


@given(floats)
def test_a_value_lies_within_the_edges_of_its_bin(value):
    low, high = bin_edges(int(magnitude_bins(np.array([value], np.float32))[0]))
    assert low <= value < high or low < value <= high


def test_bins_touch():
    assert all(bin_edges(bin_)[1] == bin_edges(bin_ + 1)[0] for bin_ in range(513))


def test_effective_max_is_the_995th_per_mille_of_magnitudes():
    values = np.arange(-1000, 1001, dtype=np.float32)[::-1]
    assert effective_max(values) == np.float32(995.0)


def test_effective_max_of_nothing_is_absent():
    assert effective_max(np.empty(0, np.float32)) is None


def test_effective_max_interpolates():
    assert effective_max(np.array([0, 1], np.float32)) == pytest.approx(0.995)
