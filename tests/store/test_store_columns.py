import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.errors import SpdToolsError
from spd_tools.store.columns import find_in_lists, list_parts, map_array, numbers_of, numbers_or_nan

small_lists = st.lists(st.sets(st.integers(0, 12), max_size=8).map(sorted), min_size=1, max_size=12)


@given(small_lists, st.integers(0, 12))
def test_finding_a_number_in_all_lists_at_once(lists, wanted):
    values, offsets = list_parts(pa.array(lists, pa.list_(pa.int32())))
    found, entries = find_in_lists(values, offsets, wanted)
    assert found.tolist() == [number for number, numbers in enumerate(lists) if wanted in numbers]
    assert all(values[entry] == wanted for entry in entries)


@given(st.lists(st.none() | st.integers(-5, 5), min_size=1, max_size=40), st.data())
def test_nulls_of_a_slice_become_nan(values, data):
    start = data.draw(st.integers(0, len(values)))
    length = data.draw(st.integers(0, len(values) - start))
    found = numbers_or_nan(pa.array(values, pa.float32()).slice(start, length))
    assert [None if value != value else value for value in found.tolist()] == values[start : start + length]


def test_numbers_are_a_view():
    array = pa.array(range(100), pa.int64())
    assert numbers_of(array.slice(10)).ctypes.data == array.buffers()[1].address + 80


@pytest.mark.parametrize("shape", [(3,), (0,)])
def test_an_array_is_mapped(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.ones(shape, np.int32))
    assert map_array(tmp_path / "a.npy", shape, ("int32",)).shape == shape


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}, {}], object), allow_pickle=True)
    with pytest.raises(SpdToolsError, match=r"a\.npy is torn or foreign"):
        map_array(tmp_path / "a.npy", (2,), ("int32",))


def test_another_type_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(SpdToolsError, match=r"float64 \(3,\), expected uint16 or int32 \(3,\)"):
        map_array(tmp_path / "a.npy", (3,), ("uint16", "int32"))
