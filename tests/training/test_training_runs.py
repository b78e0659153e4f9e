"""Whole trainings: from a configuration to a run that loads, with interruptions on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from spd_tools import load_decomposition
from spd_tools.errors import SpdToolsError
from spd_tools.training.data_sources import DataChoice
from spd_tools.training.decompose import DecomposeRequest, decompose
from spd_tools.training.reporting import read_metrics

GOLDEN = sorted((Path(__file__).parent.parent / "golden" / "spd").iterdir())


@pytest.fixture
def request_of(token_file):
    def build(source, out, **changes):
        arguments = {"threads": 1, "device": "cpu", "progress": False} | changes
        return DecomposeRequest(
            source=str(source), out=str(out), data=DataChoice(data=str(token_file), column="ids"), **arguments
        )

    return build


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.name)
def test_published_configurations_train_two_steps_and_load(folder, request_of, tmp_path):
    out = tmp_path / "run"
    outcome = decompose(request_of(folder / "final_config.yaml", out, steps=2))
    assert (outcome.state, outcome.steps_done) == ("finished", 2)
    published, trained = load_decomposition(folder), load_decomposition(out)
    assert trained.layers == published.layers
    assert trained.training_data.seq_len == 16
    tokens = torch.randint(96, (2, 16))
    torch.testing.assert_close(trained(tokens).logits, published(tokens).logits)
    keys = set(torch.load(folder / "model_10.pth", weights_only=True))
    tables = {key for key in keys if key.endswith("rope.inv_freq")}  # they follow from the configuration
    assert set(load_file(out / "model_2.safetensors")) == keys - tables
    losses = [record["loss/FaithfulnessLoss"] for record in read_metrics(out / "metrics.jsonl", "eval")]
    assert losses[-1] < losses[0]


def test_a_run_is_whole_without_the_folder_it_was_made_from(small_config, request_of, tmp_path):
    config = small_config(steps=1)
    decompose(request_of(config, tmp_path / "run"))
    config.unlink()
    moved = shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert load_decomposition(moved).layers == {"h.0.mlp.c_fc": 6, "h.0.mlp.down_proj": 6, "h.1.attn.q_proj": 5}
    document = yaml.safe_load((tmp_path / "elsewhere" / "final_config.yaml").read_text())
    assert document["pretrained_model_name"] == "target/checkpoints/model_step_100.pt"


def test_a_finished_runs_folder_can_be_trained_again_elsewhere(small_config, request_of, tmp_path):
    decompose(request_of(small_config(steps=2), tmp_path / "run"))
    decompose(request_of(tmp_path / "run", tmp_path / "again"))
    assert files(tmp_path / "again") == files(tmp_path / "run")


def files(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes()
        for name in sorted(os.listdir(folder))
        if name.startswith(("model_", "metrics"))
    }


def killed_training(request, after_lines: int) -> None:
    """Train in a process of its own, which gets SIGKILL when it has said so many lines, wherever it is then."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        sys.stderr = os.fdopen(writer, "w", buffering=1)
        try:
            decompose(request)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        for _ in range(after_lines):
            lines.readline()
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_training_goes_on_to_the_same_bits(seed, small_config, request_of, tmp_path):
    config, numbers = small_config(), random.Random(seed)
    decompose(request_of(config, tmp_path / "calm"))
    out = tmp_path / "killed"
    for _ in range(3):
        request = request_of(config, out, resume=True, checkpoint_seconds=0.0, progress=True)
        killed_training(request, numbers.randint(1, 4))
    (out / ".training.pt.partial-1-0").write_bytes(b"half of a checkpoint")
    decompose(request_of(config, out, resume=True, checkpoint_seconds=0.0))
    assert files(out) == files(tmp_path / "calm")
    assert not [path.name for path in out.iterdir() if path.name in ("training.pt", "lock") or "partial" in path.name]


def test_a_training_that_is_asked_to_stop_saves_and_goes_on_later(small_config, request_of, tmp_path, monkeypatch):
    config, out = small_config(), tmp_path / "stopped"
    decompose(request_of(config, tmp_path / "calm"))

    def ask(self, step):
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(self, step)

    from spd_tools.training.evaluation import Evaluator

    measure = Evaluator.measure
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "measure", ask)
        outcome = decompose(request_of(config, out))
    assert (outcome.state, outcome.steps_done) == ("stopped", 1)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert decompose(request_of(config, out, resume=True)).state == "finished"
    assert files(out) == files(tmp_path / "calm")


def test_an_interrupted_training_is_not_overwritten(small_config, request_of, tmp_path, monkeypatch):
    out = tmp_path / "run"
    killed_training(request_of(small_config(), out, checkpoint_seconds=0.0, progress=True), 4)
    before = (out / "training.pt").read_bytes()
    with pytest.raises(SpdToolsError, match="holds an interrupted training; go on with --resume"):
        decompose(request_of(small_config(), out))
    assert (out / "training.pt").read_bytes() == before


def test_a_finished_run_is_not_trained_again(small_config, request_of, tmp_path):
    request = request_of(small_config(steps=1), tmp_path / "run")
    decompose(request)
    before = files(tmp_path / "run")
    assert decompose(request).state == "already finished"
    assert files(tmp_path / "run") == before


@pytest.mark.parametrize("changes", [{"seed": 1}, {"batch_size": 2}])
def test_the_folder_of_another_training_is_refused(changes, small_config, request_of, tmp_path):
    decompose(request_of(small_config(steps=1), tmp_path / "run"))
    with pytest.raises(SpdToolsError, match="belongs to a training with another configuration"):
        decompose(request_of(small_config(steps=1, **changes), tmp_path / "run"))


def test_the_folder_of_a_run_from_elsewhere_is_refused(small_config, request_of, tmp_path):
    shutil.copytree(GOLDEN[1], tmp_path / "run")
    with pytest.raises(SpdToolsError, match="holds a run that was not trained here"):
        decompose(request_of(small_config(), tmp_path / "run"))


def test_a_damaged_checkpoint_is_refused(small_config, request_of, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "training.pt").write_bytes(b"torn")
    with pytest.raises(SpdToolsError, match=r"training.pt cannot be read; remove it"):
        decompose(request_of(small_config(), out, resume=True))


def test_without_out_the_folder_is_below_the_out_dir_and_named_by_what_is_trained(small_config, token_file, out_dir):
    def folder(**changes):
        data = DataChoice(data=str(token_file), column="ids")
        return decompose(
            DecomposeRequest(
                source=str(small_config(steps=1)), data=data, threads=1, device="cpu", progress=False, **changes
            )
        ).folder

    first = folder()
    assert first.parent == out_dir / "decompositions"
    assert first.name.startswith("config-")
    assert folder() == first
    assert folder(seed=3) != first


def test_metrics(small_config, request_of, tmp_path):
    decompose(request_of(small_config(steps=3, eval_metric_configs=None), tmp_path / "run"))
    path = tmp_path / "run" / "metrics.jsonl"
    train, evaluations = read_metrics(path, "train"), read_metrics(path, "eval")
    assert [record["step"] for record in train] == [0, 1, 2]
    assert [record["step"] for record in evaluations] == [0, 3]
    assert train[0]["loss/total"] == pytest.approx(
        10 * train[0]["loss/FaithfulnessLoss"]
        + 1e-3 * train[0]["loss/ImportanceMinimalityLoss"]
        + 0.5 * train[0]["loss/StochasticReconSubsetLoss"]
        + 0.5 * train[0]["loss/PersistentPGDReconLoss"]
    )
    kinds = ("ci", "unmasked", "stochastic", "rounded", "zero")
    names = {f"{what}/{kind}" for what in ("ce", "kl") for kind in kinds} | {"ce/target"}
    assert names <= set(evaluations[0])
    for what in ("l0", "alive", "faithfulness"):
        assert {f"{what}/{layer}" for layer in ("h.0.mlp.c_fc", "h.0.mlp.down_proj", "h.1.attn.q_proj")} <= set(
            evaluations[0]
        )
    assert "loss/PersistentPGDReconLoss" not in evaluations[0]  # its masks belong to training batches
    figures = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert figures == ["CIHistograms_3.png", "CIMeanPerComponent_3.png"]


def test_divergence_is_said(small_config, request_of, tmp_path):
    config = small_config(lr_schedule={"start_val": 1e30})
    with pytest.raises(SpdToolsError, match=r"is (nan|inf) at step .* training has diverged"):
        decompose(request_of(config, tmp_path / "run"))


def test_training_from_an_earlier_checkpoint(small_config, request_of, tmp_path):
    decompose(request_of(small_config(), tmp_path / "first"))
    start = str(tmp_path / "first" / "model_10.safetensors")
    decompose(
        request_of(small_config(steps=1, init_spd_checkpoint=start, faithfulness_warmup_steps=0), tmp_path / "second")
    )
    last = read_metrics(tmp_path / "first" / "metrics.jsonl", "eval")[-1]
    first = read_metrics(tmp_path / "second" / "metrics.jsonl", "eval")[0]
    assert first["kl/ci"] == last["kl/ci"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"pretrained_model_name": "nowhere"}, "target nowhere .*was not found"),
        ({"task_config": {"max_seq_len": 17, "dataset_name": "x"}}, "longer than the target's context of 16"),
        ({"init_spd_checkpoint": "nowhere.pth"}, "no init_spd_checkpoint"),
        ({"module_info": [{"module_pattern": "zest", "C": 2}]}, "matches no module"),
    ],
)
def test_what_cannot_be_found(changes, complaint, small_config, request_of, tmp_path):
    with pytest.raises(SpdToolsError, match=complaint) as error:
        decompose(request_of(small_config(**changes), tmp_path / "run"))
    assert "\n" not in str(error.value)


def test_a_target_without_weights(small_config, request_of, tmp_path):
    shutil.copytree(GOLDEN[1] / "target", tmp_path / "target")
    shutil.rmtree(tmp_path / "target" / "checkpoints")
    with pytest.raises(SpdToolsError, match="its weights are needed to decompose it"):
        decompose(request_of(small_config(), tmp_path / "run", target=str(tmp_path / "target")))


def test_data_of_the_hub_that_cannot_be_reached(small_config, tmp_path):
    request = DecomposeRequest(source=str(small_config()), out=str(tmp_path / "run"), device="cpu", progress=False)
    with pytest.raises(SpdToolsError, match="name other data with --data"):
        decompose(request)


def test_equal_trainings_are_equal_files(small_config, request_of, tmp_path):
    for name in ("a", "b"):
        decompose(request_of(small_config(steps=3), tmp_path / name))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    record = json.loads((tmp_path / "a" / "training.json").read_text())
    assert record == json.loads((tmp_path / "b" / "training.json").read_text())
