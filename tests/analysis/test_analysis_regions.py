from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from reference_store import KINDS, random_input, write_reference_store

from spd_tools.analysis.regions import REGIONS, region_numbers, regions
from spd_tools.errors import SpdToolsError
from spd_tools.store.harvest import Harvest


def region_of(share: float) -> str:
    """By the definition: floor <= 1 %, low 1-10, below core 10-25, core 25-75, high 75-90, extreme > 90 %."""
    return next(name for name, upper in REGIONS if share <= upper)


@pytest.mark.parametrize(
    ("share", "name"),
    [
        (0.0, "floor"),
        (0.01, "floor"),
        (0.011, "low"),
        (0.1, "low"),
        (0.11, "below core"),
        (0.25, "below core"),
        (-0.26, "core"),
        (0.75, "core"),
        (-0.76, "high"),
        (0.9, "high"),
        (0.91, "extreme"),
        (7.0, "extreme"),
    ],
)
def test_bounds(share, name):
    (number,) = region_numbers(np.array([share * 4], np.float32), 4.0)
    assert REGIONS[number][0] == name


@pytest.mark.parametrize("component", range(14))
def test_counts_equal_brute_force(stored, component):
    found = regions(stored.harvest, stored.harvest.keys.key(component), n_tokens=99)
    logged = stored.counted.log[component]
    values = [float(stored.given.activations[KINDS[1]][row, p, component]) for row, p in logged]
    top = float(np.float32(np.percentile(np.abs(values), 99.5)))
    assert (found.kind, found.effective_max, found.logged_firings) == (KINDS[1], top, len(logged))
    names = [region_of(float(np.float32(abs(value))) / top) for value in values]
    tokens = [int(stored.given.tokens[firing]) for firing in logged]
    for region in found.regions:
        inside = [at for at, name in enumerate(names) if name == region.name]
        assert region.firing_count == len(inside)
        assert region.share == len(inside) / len(logged)
        for side, of_sign in (
            (region.positive, [at for at in inside if not values[at] < 0]),
            (region.negative, [at for at in inside if values[at] < 0]),
        ):
            assert side.firing_count == len(of_sign)
            assert {token.token_id: token.count for token in side.tokens} == Counter(tokens[at] for at in of_sign)
        assert {token.token_id: token.count for token in region.tokens} == Counter(tokens[at] for at in inside)
        assert region.n_distinct_tokens == len(region.tokens)
    assert sum(region.firing_count for region in found.regions) == len(logged)


def test_tokens_are_ordered_by_count_then_id(stored):
    for region in regions(stored.harvest, "h.1.mlp.c_fc:3", n_tokens=4).regions:
        order = [(-token.count, token.token_id) for token in region.tokens]
        assert order == sorted(order)
        assert len(order) <= 4


def test_activations_of_one_sign_have_no_other_side(tmp_path):
    given = random_input(0)
    given.activations[KINDS[1]] = np.abs(given.activations[KINDS[1]])
    write_reference_store(tmp_path / "h", given)
    for region in regions(Harvest.open(tmp_path / "h"), "h.1.mlp.c_fc:3").regions:
        assert (region.negative.firing_count, region.negative.tokens) == (0, [])
        assert (region.positive.firing_count, region.positive.tokens) == (region.firing_count, region.tokens)


def test_ranges_are_those_of_the_magnitude(stored):
    found = regions(stored.harvest, "h.1.mlp.c_fc:3").regions
    assert [region.low for region in found[1:]] == [region.high for region in found[:-1]]
    assert (found[0].low, found[-1].high) == (0, None)


def test_no_logged_firing_no_regions(stored, tmp_path):
    assert regions(stored.harvest, "h.1.mlp.c_fc:4") is None
    write_reference_store(tmp_path / "h", random_input(0, log_share=0.0))
    assert regions(Harvest.open(tmp_path / "h"), "h.1.mlp.c_fc:3") is None


def test_a_component_that_fires_at_zero_only_lies_on_the_floor(tmp_path):
    given = random_input(0)
    given.activations[KINDS[1]][..., 14 - 1] = 0
    write_reference_store(tmp_path / "h", given)
    found = regions(Harvest.open(tmp_path / "h"), "h.1.mlp.c_fc:3")
    assert found.effective_max == 0
    assert found.regions[0].firing_count == found.logged_firings


def test_negative_number_of_tokens(stored):
    with pytest.raises(SpdToolsError, match="The number of tokens per region is -1"):
        regions(stored.harvest, "h.1.mlp.c_fc:3", n_tokens=-1)
