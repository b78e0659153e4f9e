"""Harvests that trials are made from, made once for all tests of this folder."""

from __future__ import annotations

import pytest
from evaluation_harvests import MadeUp, Planted, write_made_up
from evaluation_runs import honest, keys, ledger, notes, run, serve, store  # noqa: F401

from spd_tools.decompositions.planted import load_planted
from spd_tools.evaluate.splits import Split
from spd_tools.harvest import HarvestRequest, pipeline, run_harvest
from spd_tools.store.harvest import Harvest


@pytest.fixture(scope="session")
def made_up(tmp_path_factory) -> MadeUp:
    """Six tenths of the rows logged; rows of many lengths, excluded positions, passages that recur."""
    return write_made_up(tmp_path_factory.mktemp("made-up") / "harvest" / "made-up" / "abc123")


@pytest.fixture(scope="session")
def planted(tmp_path_factory) -> Planted:
    """2,048 rows of 32 tokens, all of them logged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(tmp_path_factory.mktemp("planted")))
        patch.setattr(pipeline, "PLANTED_ROWS", 2048)
        request = HarvestRequest(run="planted", n_batches=None, batch_size=512, seq_len=32)
        harvest = Harvest.open(run_harvest(request, progress=False).folder)
    return Planted(Split(harvest), load_planted(0))
