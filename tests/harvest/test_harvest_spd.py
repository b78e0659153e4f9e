"""Harvests of the golden SPD runs: the fast path counts what a plain call of the decomposition shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from spd_tools.decompositions.resolve import load_decomposition
from spd_tools.errors import SpdToolsError
from spd_tools.harvest import HarvestRequest, run_harvest
from spd_tools.harvest.parallel import one_thread_each
from spd_tools.store.reader import Harvest

GOLDEN = Path(__file__).parents[1] / "golden" / "spd"
ROWS, SEQ = 32, 16


@pytest.fixture
def data(tmp_path):
    ids = np.random.default_rng(0).integers(0, 96, (ROWS, SEQ))
    pq.write_table(pa.table({"text": pa.array(ids.tolist(), pa.list_(pa.int64()))}), tmp_path / "data.parquet")
    return str(tmp_path / "data.parquet")


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_golden_runs_are_counted_as_their_dense_activations_say(name, data):
    request = HarvestRequest(run=str(GOLDEN / name), n_batches=None, batch_size=ROWS, data=data, window=3)
    found = Harvest.open(run_harvest(request, progress=False).folder)
    decomposition = load_decomposition(GOLDEN / name)
    tokens = torch.from_numpy(np.asarray(found.tokens(), np.int64))
    with one_thread_each():
        out = decomposition(tokens)
    dense = {
        kind: torch.cat([layers[layer] for layer in decomposition.layers], -1).flatten(0, 1).numpy()
        for kind, layers in out.activations.items()
    }
    fires = dense["causal_importance"] > 0
    np.testing.assert_array_equal(found.firing_counts, fires.sum(0))
    together = fires.astype(int).T @ fires.astype(int)
    for i in range(0, len(found.keys), 7):
        for j in range(len(found.keys)):
            assert found.cooccurrence(found.keys.key(i), found.keys.key(j)) == together[i, j]
    for c, record in enumerate(found.components()):
        for kind, values in dense.items():
            assert record.mean_activations[kind] == pytest.approx(values[:, c].mean(dtype=float), rel=1e-4, abs=1e-6)
        for example in found.examples(record.key, "top", limit=3, context=3):
            at = example.row * SEQ + example.position
            shown = example.activations["component_activation"][example.firing_index]
            assert shown == pytest.approx(dense["component_activation"][at, c], rel=1e-4, abs=1e-6)


def test_bf16_counts_in_float32_and_is_another_harvest(data):
    run = str(GOLDEN / "llama_simple_mlp_layerwise_vector_mlp")
    outcomes = [
        run_harvest(
            HarvestRequest(run=run, n_batches=1, batch_size=ROWS, data=data, precision=precision), progress=False
        )
        for precision in ("f32", "bf16")
    ]
    assert outcomes[0].harvest_id != outcomes[1].harvest_id
    counts = [Harvest.open(outcome.folder).firing_counts for outcome in outcomes]
    assert abs(counts[0].sum() / counts[1].sum() - 1) < 0.05


def test_text_without_a_known_tokenizer_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("some text")
    request = HarvestRequest(
        run=str(GOLDEN / "llama_simple_mlp_layerwise_vector_mlp"),
        n_batches=1,
        batch_size=1,
        data=str(tmp_path / "text.txt"),
        tokenizer=str(tmp_path / "no-tokenizer.json"),
    )
    with pytest.raises(SpdToolsError, match=r"no-tokenizer\.json"):
        run_harvest(request, progress=False)
