"""The harvest's small parts against obvious definitions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.decompositions.base import LayerParts
from spd_tools.errors import SpdToolsError
from spd_tools.harvest import hashing
from spd_tools.harvest.disk import pairs
from spd_tools.harvest.exact_sums import N_LIMBS, add_exactly, carry, to_float
from spd_tools.harvest.extract import Columns, LayerActivations, Projection, extract_block
from spd_tools.harvest.extract_device import extract_block_on_device
from spd_tools.harvest.firings import MASS_BITS
from spd_tools.harvest.live import _on_host
from spd_tools.harvest.next_tokens import _select_on_device, select_next_tokens
from spd_tools.harvest.parallel import capped_bounds, weighted_bounds
from spd_tools.harvest.sections import SectionReader, section_file
from spd_tools.keys import KeySpace

floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(floats32, max_size=40), st.randoms(use_true_random=False))
def test_exact_sums_are_rounded_once_whatever_the_order(values, random):
    expected = float(sum(map(Fraction, values), Fraction(0)))
    random.shuffle(values)
    limbs = np.zeros((1, N_LIMBS), np.int64)
    for value in values:
        add_exactly(limbs[0], np.float64(value))
    carry(limbs)
    assert to_float(limbs)[0] == expected


def test_exact_sums_cancel_to_nothing():
    limbs = np.zeros((1, N_LIMBS), np.int64)
    for value in (3e38, 1e-45, -3e38):
        add_exactly(limbs[0], np.float64(np.float32(value)))
    assert to_float(limbs)[0] == np.float64(np.float32(1e-45))


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 2**20), st.integers(0, 2**30))
def test_sampling_keys_are_those_of_the_definition(seed, row, position, component):
    found = hashing.sampling_key(np.uint64(seed), row, position, component)
    assert int(found) == reference.sampling_key(seed, row, position, component)


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_logged_rows_are_those_of_the_definition(seed, share):
    found = hashing.logged_rows(seed, share, np.arange(50))
    assert found.tolist() == [reference.is_logged(seed, row, share) for row in range(50)]


def test_permuted_rows_are_a_permutation_that_the_seed_decides():
    orders = [hashing.permuted_rows(seed, 1000) for seed in (0, 0, 1)]
    assert sorted(orders[0].tolist()) == list(range(1000))
    assert orders[0].tolist() == orders[1].tolist() != orders[2].tolist()


def select_as_on_a_gpu(logits, included, p_min):
    return _select_on_device(logits.reshape(-1, logits.shape[-1]).float(), included, p_min)


@pytest.mark.parametrize("select", [select_next_tokens, select_as_on_a_gpu])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [5, 16, 333])
def test_next_tokens_are_the_softmax_above_p_min(vocab, dtype, select):
    torch.manual_seed(0)
    logits = (torch.randn(3, 7, vocab) * 3).to(dtype)
    included = np.ones((3, 7), bool)
    included[1, 2] = False
    found = select(logits, included, 0.01)
    expected = logits.float().softmax(-1).reshape(21, vocab)
    for t in range(21):
        packed = found.packed[found.indptr[t] : found.indptr[t + 1]]
        tokens = (packed >> np.uint64(MASS_BITS)).astype(int)
        masses = (packed & np.uint64(2**MASS_BITS - 1)) / 2.0**33
        wanted = np.flatnonzero(expected[t].numpy() >= 0.01) if included.flat[t] else []
        assert tokens.tolist() == list(wanted)
        np.testing.assert_allclose(masses, expected[t].numpy()[tokens], rtol=2e-6)


@pytest.mark.parametrize("select", [select_next_tokens, select_as_on_a_gpu])
def test_nan_logits_are_refused(select):
    logits = torch.zeros(1, 2, 5)
    logits[0, 1, 3] = math.nan
    with pytest.raises(SpdToolsError, match="logits contain NaN"):
        select(logits, np.ones((1, 2), bool), 1e-3)


def test_a_certain_next_token_has_the_whole_mass():
    logits = torch.tensor([[[200.0, 0.0]]])
    found = select_next_tokens(logits, np.ones((1, 1), bool), 1e-3)
    assert found.packed.tolist() == [2**33]


def test_projected_activations_are_those_of_the_dense_product():
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(24, 6)).astype(np.float32)
    weights = generator.normal(size=(9, 6)).astype(np.float32)
    gating = generator.normal(size=(24, 9)).astype(np.float32)
    included = generator.random((3, 8)) < 0.8
    blocks = [
        extract_block(LayerActivations("layer", 4, 9, Columns(gating, 0, 0.0, 1.0), ranking), 0.0, included)
        for ranking in (Projection(inputs, weights), Columns((inputs @ weights.T).astype(np.float32)))
    ]
    assert blocks[0].positions.tolist() == blocks[1].positions.tolist()
    np.testing.assert_allclose(blocks[0].values, blocks[1].values, rtol=1e-5, atol=1e-6)
    totals = blocks[0].row_totals[1]
    assert totals.weights is not None
    np.testing.assert_allclose(totals.sums @ totals.weights.T, blocks[1].row_totals[1].sums, rtol=1e-5, atol=1e-5)
    windows = np.full((2, 4, 2, 5), -7, np.float32)
    component, position = np.asarray([0, 3, 8, 8]), np.asarray([0, 7, 8, 23])
    for block, out in zip(blocks, windows, strict=True):
        block.windows.fill(out, np.arange(4), component, position)
    np.testing.assert_allclose(windows[0], windows[1], rtol=1e-5, atol=1e-6)
    assert np.isnan(windows[0, 0, 0, :2]).all()  # left of the row's beginning


def test_a_layer_that_fires_everywhere_outgrows_the_first_guess():
    block = extract_block(
        LayerActivations("layer", 0, 40, Columns(np.ones((6400, 40), np.float32)), None), 0.0, np.ones((64, 100), bool)
    )
    assert block.indptr.tolist() == [6400 * c for c in range(41)]
    assert (block.positions.reshape(40, 6400) == np.arange(6400)).all()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 100), st.integers(1, 7))
def test_bounds_cover_everything_once(sizes, cap, parts):
    array = np.asarray(sizes)
    for bounds in (capped_bounds(array, cap), weighted_bounds(array, parts)):
        assert [i for a, b in bounds for i in range(a, b)] == list(range(len(sizes)))
    assert all(sum(sizes[a:b]) <= cap or b - a == 1 for a, b in capped_bounds(array, cap))


def test_sections_read_back_across_pieces(tmp_path):
    with section_file(tmp_path / "file") as out:
        for piece in ([1, 2, 3], [], [4], [5, 6]):
            out.append("a", np.asarray(piece, np.int32))
            out.append("b", np.asarray(piece, np.float64) / 2)
    reader = SectionReader(tmp_path / "file")
    assert reader.read("a").tolist() == [1, 2, 3, 4, 5, 6]
    assert reader.read("a", 2, 5).tolist() == [3, 4, 5]
    assert reader.read("b", 3, 3).tolist() == []


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=30), st.integers(1, 10**6))
def test_expected_pairs_are_the_sum_over_all_pairs(densities, positions):
    obvious = sum(min(1.0, positions * a * b) for a in densities for b in densities) / 2
    assert pairs(np.asarray(densities), positions) == pytest.approx(obvious)


@pytest.mark.parametrize("threshold", [0.0, 0.2])
@pytest.mark.parametrize("ranking", ["inputs", "dense", "none"])
def test_extraction_on_a_device_equals_that_on_the_host(ranking, threshold):
    """The GPU's path, run on the CPU: the same firings, row sums and windows."""
    torch.manual_seed(0)
    gating, inputs, weights = torch.randn(3, 8, 9), torch.randn(3, 8, 6), torch.randn(9, 6)
    included = np.random.default_rng(0).random((3, 8)) < 0.8
    clamp = {"low": 0.0, "high": 1.0}
    given = {"inputs": {"inputs": inputs, "weights": weights}, "dense": {"ranking": inputs @ weights.T}, "none": {}}
    parts = LayerParts(layer="layer", gating=gating, **clamp, **given[ranking])
    device = extract_block_on_device(parts, 4, threshold, torch.from_numpy(included))
    host = extract_block(_on_host(parts, KeySpace({"before": 4, "layer": 9})), threshold, included)
    assert (device.start, device.stop) == (host.start, host.stop)
    np.testing.assert_array_equal(device.indptr, host.indptr)
    np.testing.assert_array_equal(device.positions, host.positions)
    np.testing.assert_allclose(device.values, host.values, rtol=1e-5, atol=1e-6)
    assert device.row_totals.keys() == host.row_totals.keys()
    for kind, totals in host.row_totals.items():
        np.testing.assert_allclose(device.row_totals[kind].sums, totals.sums, rtol=1e-5, atol=1e-6)
    windows = np.full((2, 4, len(host.values), 5), -7, np.float32)
    for block, out in zip((device, host), windows, strict=True):
        block.windows.fill(out, np.arange(4), np.asarray([0, 3, 8, 8]), np.asarray([0, 7, 8, 23]))
    np.testing.assert_allclose(windows[0], windows[1], rtol=1e-5, atol=1e-6)


def test_extraction_on_a_device_refuses_nan():
    gating = torch.zeros(1, 4, 2)
    gating[0, 1, 1] = math.nan
    with pytest.raises(SpdToolsError, match="Layer layer has an activation that is NaN"):
        extract_block_on_device(LayerParts(layer="layer", gating=gating), 0, 0.0, torch.ones(1, 4, dtype=torch.bool))
