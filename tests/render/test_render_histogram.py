import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.render.histogram import histogram
from spd_tools.store.histogram import bin_edges, magnitude_bins
from spd_tools.store.records import HistogramBin


def bins_of(values) -> list[HistogramBin]:
    found, counts = np.unique(magnitude_bins(np.array(values, np.float32)), return_counts=True)
    edges = sorted((*bin_edges(int(bin_)), int(n)) for bin_, n in zip(found, counts, strict=True))
    return [HistogramBin(low=low, high=high, count=n) for low, high, n in edges]


def rows(values, **size) -> list[str]:
    return histogram(bins_of(values), **size).plain.split("\n")


def test_has_the_asked_for_size():
    lines = rows([1.0, 2.0, 3.0], width=40, height=5)
    assert [len(line) for line in lines] == [40] * 6


def test_the_fullest_column_reaches_the_top_and_only_it():
    top = rows([0.5] * 3 + [2.0] * 1000, width=40, height=3)[0]
    assert 0 < len(top.strip()) < 20
    assert top.index("█") > 20


def test_a_single_firing_shows():
    bottom = rows([1.0] * 100_000 + [9.0] * 200, width=60, height=4)[3]
    assert bottom.rstrip()[-1] != " "
    assert len(bottom.rstrip()) == 60


def test_the_axis_ends_where_the_values_do():
    axis = rows([-1.5, 3.0], width=40)[-1]
    assert axis.split() == ["-1.62", "0", "3.25"]


@pytest.mark.parametrize("values", [[0.0], [1e38], [-1e38, 1e38], [1e-40], [-1e-40, 5.0]])
def test_extreme_values_are_drawn(values):
    lines = rows(values, width=40, height=4)
    assert any(char in "▁▂▃▄▅▆▇█" for char in lines[3])


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
def test_every_histogram_draws(values):
    lines = rows(values, width=30, height=2)
    assert [len(line) for line in lines] == [30] * 3
    assert "█" in "".join(lines)
