"""Direct effects are what the planted rules say, and what write vectors and unembedding multiply to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from planted_subjects import MOST_FALSE_POSITIVES, key_of, planted

from spd_tools.decompositions.resolve import load_decomposition
from spd_tools.experiments import Subject, make_request, read_result, registry
from spd_tools.experiments.direct_effect import DirectEffectRequest, direct_effect
from spd_tools.harvest import HarvestRequest, run_harvest
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest

GOLDEN = Path(__file__).parents[1] / "golden" / "spd" / "llama_simple_mlp_layerwise_vector_mlp"


def test_direct_effects_are_exactly_those_of_the_rules(subjects):
    for subject in subjects.values():
        for key, rule in planted(subject).rules.items():
            result = direct_effect(subject, DirectEffectRequest(key=key, limit=20))
            found = {line.text: line.logit for line in (*result.raises, *result.lowers)}
            assert found == rule.effects, rule.name
            assert [line.logit for line in result.raises] == sorted(
                (effect for effect in rule.effects.values() if effect > 0), reverse=True
            )
            assert result.effect.value == max(map(abs, rule.effects.values()))
            assert result.kind == "structural"


def test_a_random_component_seldom_stands_out(subjects):
    tried = found = 0
    for subject in subjects.values():
        for key in planted(subject).rules:
            tried += 1
            found += direct_effect(subject, DirectEffectRequest(key=key)).p_value <= 0.05
    assert tried > 180
    assert found <= MOST_FALSE_POSITIVES


def test_a_large_effect_stands_out(subject, monkeypatch):
    """An unembedding with one strong token, which one component alone writes to."""
    decomposition = planted(subject)
    rule = decomposition.rule("tail-marker")
    column = decomposition.words.index("falls")
    others = [other for other in decomposition.rules.values() if other.key.startswith("h.0.mlp.down_proj:")]
    vectors = decomposition.write_vectors("h.0.mlp.down_proj").clone()
    silenced = [int(other.key.partition(":")[2]) for other in others if other.key != rule.key]
    direction = decomposition.unembedding[:, column].nonzero()[-1]
    vectors[silenced, direction] = 0
    strong = decomposition.unembedding.clone()
    strong[direction, column] *= 100
    monkeypatch.setattr(type(decomposition), "unembedding", property(lambda _self: strong))
    monkeypatch.setattr(decomposition, "write_vectors", lambda _layer: vectors)
    result = direct_effect(subject, DirectEffectRequest(key=rule.key))
    assert result.raises[0].text == "falls"
    assert result.p_value < 2.5 / len(others)
    assert result.raises[0].z_score is None  # nobody else moves it
    assert result.effect.value > result.control.high


def test_z_scores_compare_with_the_layer(subject):
    decomposition = planted(subject)
    rule = decomposition.rule("suppress-cities")
    layer, index = ComponentKey.parse(rule.key)
    result = direct_effect(subject, DirectEffectRequest(key=rule.key))
    write = decomposition.write_vectors(layer)
    logits = (write @ decomposition.unembedding).double()
    logits -= logits.median(1, keepdim=True).values
    others = logits[torch.arange(len(write)) != index]
    for line in result.lowers:
        column = others[:, line.token_id]
        if column.std() > 0:
            assert line.z_score == pytest.approx(float((logits[index, line.token_id] - column.mean()) / column.std()))
        else:
            assert line.z_score is None
    assert result.n_controls == len(write) - 1


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> Subject:
    folder = tmp_path_factory.mktemp("golden")
    ids = np.random.default_rng(0).integers(0, 96, (8, 16))
    pq.write_table(pa.table({"text": pa.array(ids.tolist(), pa.list_(pa.int64()))}), folder / "data.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(folder))
        wanted = HarvestRequest(run=str(GOLDEN), n_batches=None, batch_size=8, data=str(folder / "data.parquet"))
        return Subject(Harvest.open(run_harvest(wanted, progress=False).folder), load_decomposition(GOLDEN))


def test_a_run_is_measured_per_unit_of_reported_activation(golden):
    decomposition = golden.decomposition
    layer = next(name for name in decomposition.layers if name.endswith("down_proj"))
    _, U = decomposition.component_vectors(layer)
    head = decomposition.target.module.get_submodule("lm_head").weight
    for index in (0, 3):
        result = direct_effect(golden, DirectEffectRequest(key=ComponentKey(layer, index), limit=5))
        raw = head @ (U[index] / U[index].norm())
        assert result.write_norm == pytest.approx(float(U[index].norm()), rel=1e-5)
        order = raw.argsort(descending=True)[:5]
        assert [line.token_id for line in result.raises] == order.tolist()
        for line in result.raises:
            assert line.logit + result.centre == pytest.approx(float(raw[line.token_id]), abs=1e-6)


def test_a_layer_that_does_not_write_into_the_stream_has_none(golden):
    layer = next(name for name in golden.decomposition.layers if name.endswith("c_fc"))
    result = direct_effect(golden, DirectEffectRequest(key=ComponentKey(layer, 0)))
    assert result.effect is None
    assert result.control is None
    assert result.raises is None
    assert "residual stream" in result.summary


def test_a_width_that_fits_by_chance_is_no_stream(golden, monkeypatch):
    decomposition = golden.decomposition
    width = decomposition.unembedding.shape[0]
    monkeypatch.setattr(decomposition, "write_vectors", lambda _layer: torch.ones(decomposition.layers[layer], width))
    layer = next(name for name in decomposition.layers if name.endswith("c_fc"))
    result = direct_effect(golden, DirectEffectRequest(key=ComponentKey(layer, 0)))
    assert result.effect is None
    assert "inside its block" in result.summary


def test_no_unembedding_and_no_write_vector_are_said(golden, monkeypatch):
    decomposition = golden.decomposition
    layer = next(name for name in decomposition.layers if name.endswith("down_proj"))
    nothing = decomposition.write_vectors(layer).clone()
    nothing[1] = 0
    monkeypatch.setattr(decomposition, "write_vectors", lambda _layer: nothing)
    result = direct_effect(golden, DirectEffectRequest(key=ComponentKey(layer, 1)))
    assert result.effect is None
    assert "write vector is zero" in result.summary
    assert direct_effect(golden, DirectEffectRequest(key=ComponentKey(layer, 0))).n_controls == len(nothing) - 2
    monkeypatch.setattr(type(decomposition), "unembedding", property(lambda _self: None))
    assert "no linear unembedding" in direct_effect(golden, DirectEffectRequest(key=ComponentKey(layer, 0))).summary


def test_a_result_is_read_back_and_replayed(subject):
    request = make_request("direct_effect", {"key": key_of(subject, "because")})
    first = registry.run(subject, request)
    assert read_result(first.model_dump_json()) == first
    assert registry.replay(subject, first).identical
