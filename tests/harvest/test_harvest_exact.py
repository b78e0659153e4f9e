"""The finished store against the slow reference, byte for byte where the numbers are integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harvest.harness import MadeUp, contents, harvest_made_up, plan_of, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Input
from reference_store import LAYERS, random_input, write_reference_store

from spd_tools.harvest.merge import merge_shards
from spd_tools.harvest.worker import work


def read_all(path: Path) -> dict[str, list]:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all().to_pydict()


def assert_equals_reference(folder: Path, scratch: Path, made_up: Input) -> None:
    expected = scratch / "reference"
    write_reference_store(expected, made_up)
    for name in ("examples", "token_stats", "vocabulary", "correlations", "firings/log"):
        assert read_all(folder / f"{name}.arrow") == read_all(expected / f"{name}.arrow"), name
    for name in ("tokens", "row_lengths", "firings/rows", *(["excluded"] if made_up.excluded is not None else [])):
        np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), np.load(expected / f"{name}.npy"), name)
    ours = pq.read_table(folder / "components.parquet").to_pydict()
    theirs = pq.read_table(expected / "components.parquet").to_pydict()
    assert ours.keys() == theirs.keys()
    for name, column in theirs.items():
        if name.startswith("sum/"):
            np.testing.assert_allclose(ours[name], column, rtol=0, atol=1e-9 * max(map(abs, column)))
        else:
            assert ours[name] == column, name


@pytest.mark.parametrize("choices", [{}, {"excluded": False}, {"log_share": 0.5}, {"threshold": 0.3}, {"window": 0}])
def test_every_file_equals_the_reference(tmp_path, choices):
    made_up = random_input(3, **choices)
    folder = harvest_made_up(made_up, LAYERS, batch_size=3)
    assert_equals_reference(folder, tmp_path, made_up)


def test_one_kind_that_gates_and_ranks(tmp_path):
    base = random_input(5)
    made_up = random_input(
        5, activations={"activation": base.activations["causal_importance"] * 3}, gating="activation"
    )
    made_up = random_input(5, activations=made_up.activations, gating="activation", ranking="activation")
    folder = harvest_made_up(made_up, LAYERS, batch_size=3)
    assert_equals_reference(folder, tmp_path, made_up)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), batch_size=st.integers(1, 9), world_size=st.integers(1, 4))
def test_any_batching_and_sharding_gives_the_same_files(tmp_path_factory, monkeypatch, seed, batch_size, world_size):
    made_up = random_input(seed, rows=7, seq=6)
    stores = []
    for sizes in ((7, 1), (batch_size, world_size)):
        monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path_factory.mktemp("out")))
        stores.append(contents(harvest_made_up(made_up, LAYERS, batch_size=sizes[0], world_size=sizes[1])))
    assert stores[0] == stores[1]


def test_memory_settings_change_nothing(monkeypatch, tmp_path):
    made_up = random_input(11, rows=12)
    stores = []
    for at, memory in enumerate((1, 1 << 30)):  # a segment after every batch, or one in all
        monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / str(at)))
        stores.append(contents(harvest_made_up(made_up, LAYERS, memory_bytes=memory, merge_bytes=memory)))
    assert stores[0] == stores[1]


def test_order_of_batches_changes_nothing(monkeypatch, tmp_path):
    """Feed one rank's batches backwards: the merge sorts what order could have touched."""
    made_up = random_input(12, rows=9)
    stores = []
    for at, step in enumerate((1, -1)):
        monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / str(at)))
        plan = plan_of(made_up, LAYERS, 2)
        plan.save()
        rows = rows_of(made_up, plan)
        in_order = rows.batch
        with monkeypatch.context() as patch:
            last = rows.n_batches - 1
            patch.setattr(rows, "batch", lambda i, r=in_order, s=step, n=last: r(i if s == 1 else n - i))
            work(plan, 0, rows, MadeUp(made_up, LAYERS), memory_bytes=1 << 30)
        merge_shards(plan, rows, memory_bytes=1 << 30)
        stores.append(contents(plan.folder))
    assert stores[0] == stores[1]
