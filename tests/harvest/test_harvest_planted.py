"""The whole pipeline on the decomposition with known answers, against plain counting."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from harvest.harness import contents
from harvest.test_harvest_exact import read_all
from reference import Input
from reference_store import write_reference_store

from spd_tools.decompositions.planted import load_planted
from spd_tools.errors import SpdToolsError
from spd_tools.harvest import HarvestRequest, merge_harvest, pipeline, run_harvest
from spd_tools.harvest.rows import HarvestRows
from spd_tools.store.reader import Harvest, open_harvest

ROWS = 64
REQUEST = HarvestRequest(run="planted:1", n_batches=None, batch_size=32, n_uniform=10, n_top=10)


@pytest.fixture(autouse=True)
def small_corpus(monkeypatch):
    monkeypatch.setattr(pipeline, "PLANTED_ROWS", ROWS)


def harvested(**changes) -> Harvest:
    outcome = run_harvest(dataclasses.replace(REQUEST, **changes), progress=False)
    return Harvest.open(outcome.folder)


def as_input(decomposition, rows: HarvestRows, **choices) -> Input:
    """Dense activations of all rows, as a call of the decomposition gives them."""
    batch = rows.batch(0)
    out = decomposition(torch.from_numpy(batch.tokens).long())
    layers = list(decomposition.layers)
    dense = {kind: torch.cat([found[name] for name in layers], -1).numpy() for kind, found in out.activations.items()}
    return Input(
        tokens=batch.tokens,
        lengths=[batch.tokens.shape[1]] * len(batch.rows),
        excluded=None,
        activations=dense,
        probabilities=out.logits.softmax(-1).numpy(),
        gating=decomposition.gating_kind,
        ranking=decomposition.ranking_kind,
        **choices,
    )


def test_every_count_equals_brute_force(tmp_path):
    found = harvested()
    decomposition = load_planted(1)
    rows = HarvestRows(pipeline._dataset(decomposition, REQUEST), 0, 1, ROWS)
    given = as_input(decomposition, rows, n_uniform=10, n_top=10)
    # Probabilities are compared elsewhere: two ways of rounding a softmax differ in the last bit.
    expected = tmp_path / "expected"
    write_reference_store(expected, given, layers=list(decomposition.layers.items()))
    for name in ("examples", "correlations", "firings/log"):
        assert read_all(found.folder / f"{name}.arrow") == read_all(expected / f"{name}.arrow"), name
    ours, theirs = (read_all(folder / "token_stats.arrow") for folder in (found.folder, expected))
    assert ours["input_token"] == theirs["input_token"]
    assert ours["input_count"] == theirs["input_count"]
    assert ours["output_token"] == theirs["output_token"]
    for a, b in zip(ours["output_mass"], theirs["output_mass"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    ours, theirs = (pq.read_table(folder / "components.parquet").to_pydict() for folder in (found.folder, expected))
    for name in ("firing_count", "histogram_bin", "histogram_count", "logged_firings", "effective_max"):
        assert ours[name] == theirs[name], name
    for kind in given.activations:
        for name in (f"sum/{kind}", f"firing_sum/{kind}", f"abs_firing_sum/{kind}"):
            np.testing.assert_allclose(
                ours[name], theirs[name], rtol=0, atol=1e-9 * max(theirs[f"abs_firing_sum/{kind}"])
            )


def test_n_ii_is_n_i():
    found = harvested()
    for key in found.keys:
        assert found.cooccurrence(key, key) == found.component(key).firing_count


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 32), (5, 4), (1, 4)])
def test_world_and_batch_sizes_change_nothing(world_size, batch_size):
    expected = contents(harvested().folder)
    request = dataclasses.replace(REQUEST, world_size=world_size, batch_size=batch_size)
    if world_size == 1:
        folder = run_harvest(request, progress=False).folder
    else:
        for rank in range(world_size):
            run_harvest(request, rank=rank, progress=False)
        harvest_id = run_harvest(request, rank=0, resume=True, progress=False).harvest_id
        folder = merge_harvest("planted-1", harvest_id, progress=False).folder
    assert contents(folder) == expected


def test_an_identical_harvest_is_reported_not_redone():
    first = run_harvest(REQUEST, progress=False)
    before = (first.folder / "manifest.json").stat().st_mtime_ns
    again = run_harvest(REQUEST, progress=False)
    assert (again.state, again.harvest_id) == ("already finished", first.harvest_id)
    assert (first.folder / "manifest.json").stat().st_mtime_ns == before


def test_excluded_tokens_count_nowhere():
    word = int(load_planted(1).corpus(1, 64)[0, 3])
    found = harvested(exclude_tokens=(word,))
    assert found.n_tokens == ROWS * 64 - int((np.asarray(found.tokens()) == word).sum())
    assert found.vocabulary("input")[word] == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"run": "nowhere/at/all"}, "nowhere/at/all"),
        ({"n_batches": 1000}, "which make 2 batches of 32"),
        ({"batch_size": 0}, "at least 1"),
        ({"seq_len": 1000}, "takes 1 to 64 positions"),
        ({"device": "mps"}, "MPS"),
        ({"device": "gpu"}, "no device"),
        ({"p_min": 0.0}, "p-min"),
        ({"threshold": -1.0}, "never negative"),
        ({"threshold": 1.0}, "threshold"),
        ({"memory_gb": 0.0}, "memory-gb"),
        ({"n_top": -1}, "examples"),
        ({"window": -1}, "window"),
        ({"log_tokens": -1}, "log-tokens"),
        ({"world_size": 2}, "needs --rank"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(changes, match, out_dir):
    with pytest.raises(SpdToolsError, match=match):
        run_harvest(dataclasses.replace(REQUEST, **changes), progress=False)
    assert not list(out_dir.glob("harvest/*/*/manifest.json"))


def test_partial_state_needs_resume(monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("spd_tools.harvest.segment._write_log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_harvest(REQUEST, progress=False)
    with pytest.raises(SpdToolsError, match="go on with --resume"):
        run_harvest(REQUEST, progress=False)
    assert run_harvest(REQUEST, resume=True, progress=False).state == "finished"
    assert open_harvest("planted-1").n_tokens == ROWS * 64
