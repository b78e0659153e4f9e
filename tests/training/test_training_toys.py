"""Toy targets: trained here, decomposed, loaded, plotted."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml

from spd_tools import load_decomposition
from spd_tools.cli import main
from spd_tools.errors import SpdToolsError
from spd_tools.harvest import HarvestRequest, run_harvest
from spd_tools.targets.toys import ResidualMlpConfig, TmsConfig
from spd_tools.training.config import parse_training_config, remarks
from spd_tools.training.decompose import DecomposeRequest, decompose
from spd_tools.training.experiments import EXPERIMENTS
from spd_tools.training.figures import component_order
from spd_tools.training.schedules import Schedule
from spd_tools.training.toys import ResidualMlpRecipe, TmsRecipe, toy_target_run, train_toy


def recipe(kind, model, **changes):
    arguments = dict(
        model=model, steps=300, batch_size=256, lr_schedule=Schedule(start_val=1e-2), feature_probability=0.1
    )
    return kind(**(arguments | changes))


@pytest.fixture
def quick(monkeypatch):
    """The named experiment with little training."""

    def shorten(name, *, figures=False):
        chosen = EXPERIMENTS[name]
        config = chosen.config() | {
            "steps": 2,
            "slow_eval_on_first_step": False,
            "batch_size": 16,
            "eval_batch_size": 16,
            "faithfulness_warmup_steps": 1,
        }
        if not figures:
            config["eval_metric_configs"] = []
        toy = chosen.toy.model_copy(update={"steps": 2, "batch_size": 8})
        monkeypatch.setitem(EXPERIMENTS, name, type(chosen)(summary=chosen.summary, config=lambda: config, toy=toy))
        return name

    return shorten


def test_a_tms_puts_features_at_equal_angles():
    model = train_toy(recipe(TmsRecipe, TmsConfig(n_features=5, n_hidden=2), steps=1500, feature_probability=0.05))
    weight = model.linear1.weight.detach()
    assert torch.equal(model.linear2.weight, weight.T)
    angles = torch.atan2(weight[1], weight[0]).sort().values
    gaps = torch.diff(torch.cat([angles, angles[:1] + 2 * torch.pi]))
    torch.testing.assert_close(gaps, torch.full((5,), 2 * torch.pi / 5), atol=0.1, rtol=0)


def test_the_layers_within_a_tms_stay_identities():
    model = train_toy(recipe(TmsRecipe, TmsConfig(n_features=5, n_hidden=2, n_hidden_layers=1), steps=5))
    assert torch.equal(model.hidden_layers[0].weight, torch.eye(2))


def test_a_residual_mlp_learns_x_plus_relu():
    sizes = ResidualMlpConfig(n_features=6, d_embed=40, d_mlp=6, n_layers=2)
    model = train_toy(recipe(ResidualMlpRecipe, sizes, steps=600))
    torch.testing.assert_close(model.W_U, model.W_E.T)
    torch.testing.assert_close(model.W_E.norm(dim=1), torch.ones(6))
    x = torch.eye(6) * 0.7
    expected, embedded_only = 2 * x, x @ model.W_E @ model.W_U
    with torch.no_grad():
        assert (model(x) - expected).square().mean() < 0.1 * (embedded_only - expected).square().mean()


def test_a_toy_target_is_trained_once(tmp_path):
    tms = recipe(TmsRecipe, TmsConfig(n_features=3, n_hidden=2), steps=2)
    run = toy_target_run(tms, tmp_path)
    checkpoint = run / "checkpoints" / "model_step_2.pt"
    written = checkpoint.stat().st_mtime_ns
    assert toy_target_run(tms, tmp_path) == run
    assert checkpoint.stat().st_mtime_ns == written
    assert toy_target_run(tms.model_copy(update={"seed": 1}), tmp_path) != run


@pytest.mark.parametrize("name", [name for name, found in EXPERIMENTS.items() if found.toy is not None])
def test_a_toy_experiment_trains_and_loads(name, quick, tmp_path):
    chosen = EXPERIMENTS[name]
    outcome = decompose(DecomposeRequest(source=quick(name), out=str(tmp_path / "run"), threads=1, progress=False))
    assert not outcome.reads_tokens
    assert any(key.startswith("recovery/recovered/") for key in outcome.metrics)
    loaded = load_decomposition(outcome.folder)
    n_features = chosen.toy.model.n_features
    x = torch.rand(4, n_features)
    out = loaded(x)
    assert out.logits.shape == (4, n_features)
    for layer, c in loaded.layers.items():
        assert out.activations["causal_importance"][layer].shape == (4, c)
    ones = {layer: torch.ones(4, c) for layer, c in loaded.layers.items()}
    torch.testing.assert_close(loaded.run(x, masks=ones).logits, out.logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["tms_5-2-id", "resid_mlp1"])
def test_a_toy_experiment_is_plotted(name, quick, tmp_path):
    source = quick(name, figures=True)
    folder = decompose(DecomposeRequest(source=source, out=str(tmp_path / "run"), threads=1, progress=False)).folder
    kinds = ("CIHistograms", "CIMeanPerComponent", "PermutedCIPlots", "UVPlots")
    assert {path.name for path in (folder / "figures").iterdir()} == {f"{kind}_2.png" for kind in kinds}


def test_what_concerns_tokens_is_refused_for_toys(quick, tmp_path):
    folder = decompose(
        DecomposeRequest(source=quick("tms_5-2"), out=str(tmp_path / "run"), threads=1, progress=False)
    ).folder
    sentence = "decomposes the toy TMS, which reads no tokens"
    for data in (None, str(tmp_path / "some.txt")):
        with pytest.raises(SpdToolsError, match=sentence):
            run_harvest(HarvestRequest(run=str(folder), n_batches=1, batch_size=1, data=data))
    loaded = load_decomposition(folder)
    with pytest.raises(SpdToolsError, match=sentence):
        loaded(torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(SpdToolsError, match=r"reads features \[batch, 5\]"):
        loaded(torch.zeros(2, 4))


def test_components_come_by_the_feature_that_they_are_for():
    importances = torch.tensor([[0.0, 0.9, 0.0, 0.2], [0.8, 0.1, 0.0, 0.0]])
    assert component_order(importances).tolist() == [1, 3, 0, 2]


def test_experiments_are_listed(capsys):
    assert main(["decompose", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"tms_5-2", "tms_5-2-id", "tms_40-10", "tms_40-10-id", "resid_mlp1", "resid_mlp2", "resid_mlp3"} <= set(
        listed
    )
    assert {"gpt2", "ts"} <= set(listed)
    assert any(name.startswith("ss_") for name in listed)
    here = {name for name, found in EXPERIMENTS.items() if found.toy is not None} | {"story"}
    assert {name for name, found in listed.items() if found["needs"] is None} == here
    assert main(["decompose", "--list"]) == 0
    assert "tms_5-2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "Name a configuration file or an experiment"),
        (["tms_5-3"], "no experiment 'tms_5-3'; did you mean tms_5-2"),
        (["ss_llama_simple_mlp"], "needs a target that is pretrained first; name its run"),
        (["gpt2"], "openai-community/gpt2 .*connect to the hub"),
        (["tms_5-2", "--n-gpus", "2"], "2 GPUs were asked for and there are 0"),
        (["tms_5-2", "--device", "zest"], "'zest' is no device"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(argv, complaint, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["decompose", *argv]) == 1
    err = capsys.readouterr().err
    assert re.search(complaint, err)
    assert err.count("\n") == 1


def test_every_experiments_configuration_can_be_trained():
    for name, found in EXPERIMENTS.items():
        raw = found.config()
        assert remarks(parse_training_config(raw, name), raw) == []


def test_every_feature_of_a_small_tms_ends_in_a_component_of_its_own(tmp_path):
    toy = EXPERIMENTS["tms_5-2"].toy.model_copy(update={"steps": 2500})
    config = EXPERIMENTS["tms_5-2"].config() | {
        "pretrained_model_name": str(toy_target_run(toy, tmp_path)),
        "eval_freq": 1000,
        "eval_metric_configs": [],
    }
    source = tmp_path / "tms.yaml"
    source.write_text(yaml.safe_dump(config))
    metrics = decompose(
        DecomposeRequest(source=str(source), out=str(tmp_path / "run"), threads=1, progress=False)
    ).metrics
    for layer in ("linear1", "linear2"):
        assert metrics[f"recovery/recovered/{layer}"] == 1.0
        assert metrics[f"recovery/mean_max_cosine/{layer}"] >= 0.98
        # At most one component per active feature; features near 0 do not reach the output and need none.
        assert 0.4 < metrics[f"l0/{layer}"] < 1.05 * 5 * 0.15
        assert metrics[f"faithfulness/{layer}"] < 1e-3
