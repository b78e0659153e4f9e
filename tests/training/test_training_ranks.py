"""Several processes on the CPU train what one process trains."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from spd_tools import load_decomposition
from spd_tools.errors import SpdToolsError
from spd_tools.stories import story_vocabulary
from spd_tools.training.data_sources import DataChoice
from spd_tools.training.decompose import DecomposeRequest, decompose
from spd_tools.training.pretrain_config import PretrainConfig
from spd_tools.training.pretrain_run import PretrainRequest
from spd_tools.training.ranks import run_ranks
from spd_tools.training.reporting import read_metrics
from spd_tools.training.run_folder import claimed


@pytest.fixture
def request_of(token_file, tmp_path):
    def build(config, out):
        return DecomposeRequest(
            source=str(config),
            out=str(tmp_path / out),
            data=DataChoice(data=str(token_file), column="ids"),
            device="cpu",
            threads=1,
            progress=False,
        )

    return build


def test_two_processes_take_the_steps_of_one(small_config, request_of, tmp_path):
    config = small_config(
        loss_metric_configs=[  # none of which draws numbers, of which every process has its own
            {"classname": "FaithfulnessLoss", "coeff": 10.0},
            {"classname": "ImportanceMinimalityLoss", "coeff": 1e-2, "pnorm": 1.0, "beta": 0.5},
            {"classname": "CIMaskedReconLoss", "coeff": 1.0},
        ],
        steps=4,
    )
    decompose(request_of(config, "one"))
    outcome = run_ranks("decompose", request_of(config, "two"), 2)
    assert outcome.state == "finished"
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl", "train") for name in ("one", "two"))
    assert len(one) == 4
    for alone, shared in zip(one, two, strict=True):
        assert shared.pop("split") == alone.pop("split")
        assert shared == pytest.approx(alone, rel=1e-4)
    assert load_decomposition(tmp_path / "two").layers == load_decomposition(tmp_path / "one").layers


def test_a_failing_process_ends_the_others(small_config, request_of, capfd):
    config = small_config(steps=2, batch_size=3)
    with pytest.raises(SpdToolsError, match="of 2 failed; what it said stands above"):
        run_ranks("decompose", request_of(config, "run"), 2)
    assert "batch_size 3 cannot be shared by 2 processes" in capfd.readouterr().err


def story_model(**changes):
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 12, "vocab_size": len(story_vocabulary())}
    document = {
        "name": "tiny",
        "model": {"model_type": "GPT2Simple"} | sizes,
        "data": {"stories": {"n_rows": 400}, "seq_len": 12},
        "steps": 4,
        "batch_size": 8,
        "lr_schedule": {"start_val": 1e-3},
        "eval_batch_size": 8,
        "n_eval_steps": 1,
        "log_freq": 1,
    }
    return PretrainConfig.model_validate(document | changes)


def pretrained(folder, config, n_ranks, **options):
    request = PretrainRequest(config=config, out=str(folder), device="cpu", threads=1, wait=True, progress=False)
    return run_ranks("pretrain", request, n_ranks, **options)


def losses(folder):
    return [record["loss"] for record in read_metrics(folder / "metrics.jsonl", "train")]


def test_two_processes_pretrain_what_one_pretrains(tmp_path):
    one, two = (pretrained(tmp_path / str(n), story_model(), n) for n in (1, 2))
    assert (two.step, two.finished) == (4, True)
    assert losses(two.folder) == pytest.approx(losses(one.folder), rel=1e-4)
    assert two.held_out == pytest.approx(one.held_out, rel=1e-4)


def interrupted(folder, config, number):
    """Two ranks whose starter gets a signal while they train; its exit code."""
    asked = []

    def ask(done, total):
        if not asked:  # a second signal would not be waited for
            asked.append((done, total))
            os.kill(os.getpid(), number)

    child = os.fork()
    if child == 0:
        try:
            outcome = pretrained(folder, config, 2, on_step=ask)
            os._exit(0 if asked[0][0] <= outcome.step < asked[0][1] and not outcome.finished else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.long
def test_ranks_save_and_stop_when_the_process_that_started_them_is_asked_to_or_gone(tmp_path):
    config, folder = story_model(steps=200), tmp_path / "stopped"
    done = 0
    for number, code in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
        assert interrupted(folder, config, number) == code
        with claimed(folder, wait=True):  # the ranks have left
            assert (folder / "training.pt").exists()
        assert done < len(losses(folder)) < 200
        done = len(losses(folder))
    assert pretrained(folder, config, 2).finished
    calm = pretrained(tmp_path / "calm", config, 2).folder
    weights = "checkpoints/model_step_200.pt"
    assert (folder / weights).read_bytes() == (calm / weights).read_bytes()
    assert losses(folder) == losses(calm)


@pytest.mark.long
def test_what_is_trained_already_is_left_alone_by_several_processes_too(small_config, request_of, tmp_path):
    request = request_of(small_config(steps=1, batch_size=4), "run")
    first = decompose(request)
    again = run_ranks("decompose", request, 2)
    assert again.state == "already finished"
    assert again.metrics == first.metrics


@pytest.mark.parametrize(
    ("device", "complaint"),
    [(None, "2 GPUs were asked for and there are 1"), ("cuda:0", "say --device cuda instead of cuda:0")],
)
def test_every_process_needs_a_gpu(device, complaint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SpdToolsError, match=complaint):
        run_ranks("decompose", DecomposeRequest(source="tms_5-2", device=device), 2)
