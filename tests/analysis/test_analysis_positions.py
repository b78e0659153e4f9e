from __future__ import annotations

import pytest
from reference_store import random_input, write_reference_store

from spd_tools.analysis.positions import positions
from spd_tools.errors import SpdToolsError
from spd_tools.store.harvest import Harvest


@pytest.mark.parametrize("component", [0, 6, 13])
def test_densities_equal_brute_force(stored, component):
    given, counted, harvest = stored.given, stored.counted, stored.harvest
    found = positions(harvest, harvest.keys.key(component))
    assert [(part.first, part.last) for part in found] == [(0, 0), (1, 1), (2, 3), (4, 7), (8, 13)]
    for part in found:
        inside = range(part.first, part.last + 1)
        assert part.n_tokens == sum(given.counts(row, p) for row in counted.logged_rows for p in inside)
        assert part.firing_count == sum(p in inside for _, p in counted.log[component])
        assert part.density == part.firing_count / part.n_tokens


def test_positions_that_no_row_reaches_are_left_out(tmp_path):
    write_reference_store(tmp_path / "h", random_input(0, seq=12, lengths=[4] * 8))
    found = positions(Harvest.open(tmp_path / "h"), "h.0.mlp.c_fc:2")
    assert [part.first for part in found] == [0, 1, 2]


def test_rows_of_one_token(tmp_path):
    write_reference_store(tmp_path / "h", random_input(0, seq=1, lengths=[1] * 8, excluded=False))
    [part] = positions(Harvest.open(tmp_path / "h"), "h.1.mlp.c_fc:3")
    assert (part.first, part.last, part.n_tokens, part.firing_count) == (0, 0, 8, 8)


def test_unknown_component(stored):
    with pytest.raises(SpdToolsError, match="no component"):
        positions(stored.harvest, "h.0.mlp.c_fc:77")
