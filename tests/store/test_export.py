import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from reference_store import random_input, write_reference_store

from spd_tools.errors import SpdToolsError
from spd_tools.store import export as export_module
from spd_tools.store.export import export
from spd_tools.store.harvest import Harvest


@pytest.fixture
def harvest(tmp_path):
    folder = tmp_path / "harvest"
    write_reference_store(folder, random_input(rows=30))
    return Harvest.open(folder)


@pytest.fixture
def exported(harvest, tmp_path):
    export(harvest, tmp_path / "out")
    return tmp_path / "out"


def components(exported) -> list[dict]:
    lines = (exported / "activation_contexts" / "components.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_there_is_a_line_per_component_in_order_dead_ones_too(harvest, exported):
    assert [component["component_key"] for component in components(exported)] == list(map(str, harvest.keys))


def test_a_component_has_the_fields_of_the_layout(exported):
    names = "component_key layer component_idx mean_ci activation_examples input_token_pmi output_token_pmi"
    assert {frozenset(component) for component in components(exported)} == {frozenset(names.split())}


def test_mean_ci_is_that_of_the_reader(harvest, exported):
    expected = [record.mean_activations["causal_importance"] for record in harvest.components()]
    assert [component["mean_ci"] for component in components(exported)] == expected


def test_examples_are_the_uniform_sample(harvest, exported):
    for key, component in zip(harvest.keys, components(exported), strict=True):
        expected = [
            {
                "token_ids": example.token_ids,
                "ci_values": example.activations["causal_importance"],
                "component_acts": example.activations["component_activation"],
            }
            for example in harvest.examples(key, "uniform", limit=7, context=2)
        ]
        assert component["activation_examples"] == expected


@pytest.mark.parametrize("side", ["input", "output"])
def test_pmi_lists_are_those_of_the_reader(harvest, exported, side):
    for key, component in zip(harvest.keys, components(exported), strict=True):
        lists = harvest.token_stats(key, side).lists("pmi", limit=40)
        assert component[f"{side}_token_pmi"] == {
            "top": [[score.token_id, score.pmi] for score in lists.top],
            "bottom": [[score.token_id, score.pmi] for score in lists.bottom],
        }


def test_a_dead_component_has_empty_lists(exported):
    dead = components(exported)[-1]
    assert dead["activation_examples"] == []
    assert dead["input_token_pmi"] == dead["output_token_pmi"] == {"top": [], "bottom": []}


def test_config_and_summary(harvest, exported):
    config = json.loads((exported / "activation_contexts" / "config.json").read_text())
    summary = json.loads((exported / "activation_contexts" / "summary.json").read_text())
    assert (config["run_id"], config["n_tokens"], config["seq_len"]) == ("made-up", harvest.n_tokens, 12)
    assert summary["h.0.mlp.c_fc:5"] == {
        "layer": "h.0.mlp.c_fc",
        "component_idx": 5,
        "mean_ci": harvest.component("h.0.mlp.c_fc:5").mean_activations["causal_importance"],
    }
    assert len(summary) == len(harvest.keys)


def test_correlations_hold_each_pair_once(harvest, exported):
    rows = pq.read_table(exported / "correlations.parquet").to_pylist()
    found = {(row["component_key"], row["partner_key"]): row["count"] for row in rows}
    keys = list(map(str, harvest.keys))
    pairs = [(i, j) for at, i in enumerate(keys) for j in keys[at + 1 :]]
    assert found == {(i, j): n for i, j in pairs if (n := harvest.cooccurrence(i, j))}
    assert len(rows) == len(found)


def test_correlations_come_with_both_firing_counts(harvest, exported):
    row = pq.read_table(exported / "correlations.parquet").to_pylist()[3]
    expected = [harvest.component(row[name]).firing_count for name in ("component_key", "partner_key")]
    assert [row["firing_count"], row["partner_firing_count"]] == expected


@pytest.mark.parametrize(("side", "measure"), [("input", "count"), ("output", "mass")])
def test_token_statistics_are_those_of_the_reader(harvest, exported, side, measure):
    rows = pq.read_table(exported / f"{side}_tokens.parquet").to_pylist()
    expected = []
    for key in harvest.keys:
        stats = harvest.token_stats(key, side)
        triples = zip(stats.token.tolist(), stats.count.tolist(), stats.total.tolist(), strict=True)
        expected += [(str(key), *triple) for triple in triples]
    assert [(row["component_key"], row["token_id"], row[measure], row["total"]) for row in rows] == expected


def test_parquet_is_written_in_pieces_without_changing_it(harvest, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_ROWS_PER_TABLE", 3)
    export(harvest, tmp_path / "pieces")
    for name in ("correlations.parquet", "input_tokens.parquet", "output_tokens.parquet"):
        whole, pieces = pq.read_table(exported / name), pq.read_table(tmp_path / "pieces" / name)
        assert pieces.to_pylist() == whole.to_pylist()
        assert pq.read_metadata(tmp_path / "pieces" / name).num_row_groups > 1


def test_a_harvest_without_firings_exports_empty_tables(tmp_path):
    quiet = random_input()
    for dense in quiet.activations.values():
        dense[:] = 0
    write_reference_store(tmp_path / "quiet", quiet)
    export(Harvest.open(tmp_path / "quiet"), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "correlations.parquet")
    assert (table.num_rows, table.column_names[:3]) == (0, ["component_key", "partner_key", "count"])


def test_excluded_positions_are_null(harvest, exported):
    excluded = np.asarray(harvest.excluded)
    assert excluded.any()
    values = [
        value
        for component in components(exported)
        for example in component["activation_examples"]
        for value in example["ci_values"]
    ]
    assert None in values


def test_an_existing_folder_is_refused_and_stays(harvest, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(SpdToolsError, match="exists already"):
        export(harvest, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_export_leaves_nothing(harvest, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(harvest, tmp_path / "out", interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["harvest"]


def test_progress_counts_components(harvest, tmp_path):
    calls = []
    export(harvest, tmp_path / "out", lambda done, total: calls.append((done, total)))
    assert calls == [(n, 15) for n in range(1, 16)]
