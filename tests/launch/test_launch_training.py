"""Trainings as jobs: the same files as in the foreground, whatever happens on the way."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from forks import ended, use_forks, wait_until

from spd_tools.cli import main
from spd_tools.errors import SpdToolsError
from spd_tools.launch import run_task
from spd_tools.launch.control import cancel_job, retry_job, start_job
from spd_tools.launch.graph import Graph
from spd_tools.launch.profiles import SlurmProfile
from spd_tools.launch.status import job_status
from spd_tools.launch.sweep import start_sweep, sweep_table
from spd_tools.launch.training import plain_request, start_decompose, start_pretrain, training_steps, with_gpus
from spd_tools.settings import Settings
from spd_tools.stories import story_vocabulary
from spd_tools.training.configuration import read_configuration
from spd_tools.training.decompose import DecomposeRequest, decompose
from spd_tools.training.experiments import EXPERIMENTS
from spd_tools.training.interrupts import StopSignal
from spd_tools.training.pretrain_config import PretrainConfig
from spd_tools.training.pretrain_run import PretrainRequest, pretrain
from spd_tools.training.sweep import plan_sweep
from spd_tools.training.toys import toy_target_run
from spd_tools.training.trainer import Trainer

STEPS = 6
HELD_STEP = 3


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    torch.set_num_threads(1)  # threads do not survive a fork
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(run_task, "REPORT_SECONDS", 0)
    monkeypatch.setattr(run_task, "TASKS_PER_SECOND", 1e9)
    schedulers = use_forks(monkeypatch)
    yield
    for process in schedulers.started:
        process.send_signal(signal.SIGKILL)


@pytest.fixture
def config(tmp_path):
    """A TMS that is decomposed in milliseconds."""
    toy = EXPERIMENTS["tms_5-2"].toy.model_copy(update={"steps": 2, "batch_size": 8})
    document = EXPERIMENTS["tms_5-2"].config() | {
        "pretrained_model_name": str(toy_target_run(toy, tmp_path / "targets")),
        "steps": STEPS,
        "batch_size": 8,
        "eval_batch_size": 8,
        "eval_metric_configs": [],
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def held(monkeypatch, tmp_path):
    """Every training waits at a step while the file is there and nobody asks it to stop."""
    hold, take_step = tmp_path / "hold", Trainer.take_step
    hold.touch()

    def wait(self, step, *, with_record):
        if step == HELD_STEP:
            wait_until(lambda: not hold.exists() or was_asked_to_stop())
        return take_step(self, step, with_record=with_record)

    monkeypatch.setattr(Trainer, "take_step", wait)
    return hold


def was_asked_to_stop():
    """A signal takes the handler away that waited for it."""
    return not isinstance(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), StopSignal)


def request_of(config, **changes):
    return DecomposeRequest(source=str(config), device="cpu", checkpoint_seconds=1e-9, **changes)


def start(kind, request, n_gpus=1):
    """The job that a cluster would be given, on this machine."""
    arguments = {"request": plain_request(request), "n_gpus": n_gpus}
    graph = Graph(steps=training_steps(kind, arguments, gpus=0))
    return start_job(kind=kind, subject="a training", request=arguments, graph=graph)


def files(folder):
    """What is trained, without what only training itself needs."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def calm(request, tmp_path, monkeypatch):
    """The same training in the foreground."""
    with monkeypatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(tmp_path / "calm"))
        return files(decompose(replace(request, progress=False)).folder)


def trained_until_held(job, step):
    wait_until(lambda: {task.done for task in job_status(job.id).step(step).tasks} == {HELD_STEP})
    return job_status(job.id).step(step).tasks


def test_a_decomposition_as_a_job(config, tmp_path, monkeypatch):
    request = request_of(config)
    job = ended(start("decompose", request))
    assert job.status == "finished", job
    assert files(job.result["run"]) == calm(request, tmp_path, monkeypatch)
    [task] = job.step("train").tasks
    assert (task.done, task.total, task.unit) == (STEPS, STEPS, "steps")
    assert job.result["steps"] == STEPS
    assert job.result["loss/total"] > 0
    assert Path(job.result["run"]).parent == Settings.from_environment().decompositions_dir
    assert ended(start("decompose", request)).result == job.result  # there is nothing to do, and that is said


@pytest.mark.parametrize("how", ["killed", "cancelled"])
def test_a_decomposition_goes_on_from_its_checkpoint(how, config, held, tmp_path, monkeypatch):
    job = start("decompose", request_of(config))
    [task] = trained_until_held(job, "train")
    if how == "killed":
        os.kill(task.pid, signal.SIGKILL)
    else:
        cancel_job(job.id)
    assert ended(job).status == ("lost" if how == "killed" else "cancelled")
    held.unlink()
    job = ended(retry_job(job.id))
    assert job.status == "finished", job
    assert files(job.result["run"]) == calm(request_of(config), tmp_path, monkeypatch)
    assert log_of(job).count("eval 0/") == 1, "the second attempt begins where the first one was"


def test_a_queued_training_goes_by_the_configuration_as_it_was(config):
    request = replace(request_of(config), configuration=read_configuration(str(config)))
    config.write_text("nonsense: [")
    assert ended(start("decompose", request)).status == "finished"


def test_a_later_attempt_waits_for_an_earlier_one_that_still_trains(config, held):
    """Of which the scheduler knows nothing, as where a node has lost its daemon but not the task."""
    job = start("decompose", request_of(config))
    trained_until_held(job, "train")
    twin = start("decompose", request_of(config, threads=1))
    wait_until(lambda: "waiting for it to end" in log_of(twin))
    assert job_status(twin.id).status == "running"
    held.unlink()
    assert ended(job).status == "finished"
    assert ended(twin).result == job_status(job.id).result


def log_of(job):
    path = job.folder / "logs" / "train-00000.log"
    return path.read_text() if path.exists() else ""


def story_model(**changes):
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 12, "vocab_size": len(story_vocabulary())}
    document = {
        "name": "tiny",
        "model": {"model_type": "GPT2Simple"} | sizes,
        "data": {"stories": {"n_rows": 16}, "seq_len": 12},
        "steps": 3,
        "batch_size": 4,
        "lr_schedule": {"start_val": 1e-2},
        "eval_batch_size": 4,
        "n_eval_steps": 1,
    }
    return PretrainConfig.model_validate(document | changes)


def test_a_pretraining_as_a_job(tmp_path):
    request = PretrainRequest(config=story_model(), device="cpu")
    job = ended(start("pretrain", request))
    assert job.status == "finished", job
    assert (job.result["steps"], job.step("train").tasks[0].done) == (3, 3)
    foreground = pretrain(replace(request, out=str(tmp_path / "calm"), progress=False))
    assert job.result["held_out_loss"] == pytest.approx(foreground.held_out["held_out_loss"], rel=1e-5)
    weights = "checkpoints/model_step_3.pt"
    assert (Path(job.result["run"]) / weights).read_bytes() == (foreground.folder / weights).read_bytes()


# --- sweeps ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(config, tmp_path):
    grid = tmp_path / "grid.yaml"
    penalty = "{classname: ImportanceMinimalityLoss, coeff: {values: [0.1, 0.2]}}"
    grid.write_text(f"global:\n  seed: {{values: [0, 1]}}\n  loss_metric_configs: [{penalty}]\n")
    return plan_sweep([str(config)], grid, request_of(""))


def test_every_point_of_a_sweep_is_a_run_of_its_own(sweep, tmp_path, monkeypatch):
    job = ended(start_sweep(sweep))
    assert job.status == "finished", job
    assert job.result is None, "that of one point would stand for all"
    rows = sweep_table(job.id).rows
    assert len({row.run for row in rows}) == 4
    for place, row in enumerate(rows):
        assert files(row.run) == calm(sweep.request_of(place), tmp_path, monkeypatch)
        assert (row.point, row.done, row.total) == (place, STEPS, STEPS)
        assert row.metrics["loss/total"] > 0
    assert [list(row.varies) for row in rows] == [["seed", "loss_metric_configs.ImportanceMinimalityLoss.coeff"]] * 4


def test_a_kill_in_the_middle_of_a_sweep(sweep, held, tmp_path, monkeypatch, capsys):
    job = start_sweep(sweep, max_concurrent=4)
    tasks = trained_until_held(job, "points")
    os.kill(tasks[2].pid, signal.SIGKILL)
    held.unlink()
    job = ended(job)
    assert [row.status for row in sweep_table(job.id).rows] == ["finished", "finished", "lost", "finished"]
    assert main(["train-sweep", "show", job.id]) == 0
    shown = capsys.readouterr().out
    assert "lost" in shown
    assert f"jobs retry {job.id}" in shown
    job = ended(retry_job(job.id))
    assert job.status == "finished", job
    assert [task.attempt for task in job.step("points").tasks] == [1, 1, 2, 1]
    for place, row in enumerate(sweep_table(job.id).rows):
        assert files(row.run) == calm(sweep.request_of(place), tmp_path, monkeypatch)


def test_a_point_that_fails_leaves_the_others(config, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("small: {lr_schedule: {values: [{start_val: 0.01}, {start_val: 1.0e+30}]}}")
    job = ended(start_sweep(plan_sweep([str(config)], grid, request_of(""))))
    rows = sweep_table(job.id).rows
    assert [row.status for row in rows] == ["finished", "failed"]
    assert "training has diverged" in rows[1].why
    assert (rows[1].run, rows[1].metrics) == (None, {})


@pytest.mark.parametrize(("n_gpus", "wanted", "at_once"), [(1, None, 3), (2, None, 1), (1, 2, 2)])
def test_on_the_cpu_no_more_points_at_once_than_there_are_cpus(n_gpus, wanted, at_once, sweep, monkeypatch):
    submitted = []
    monkeypatch.setattr("spd_tools.launch.sweep.n_cpus", lambda: 3)
    monkeypatch.setattr("spd_tools.launch.sweep.start_job", lambda **job: submitted.append(job))
    start_sweep(sweep, n_gpus=n_gpus, max_concurrent=wanted)
    [prepare, points] = submitted[0]["graph"].steps
    assert (prepare.n_tasks, points.n_tasks, points.max_concurrent, points.gpus) == (1, 4, at_once, 0)


def test_the_command_trains_all_points_and_prints_their_table(config, tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("global: {seed: {values: [3, 4]}}")
    argv = ["train-sweep", str(config), "--grid", str(grid), "--cpu"]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert {"seed", "3", "4", "finished", "loss/total", "l0/total"} <= set(shown.split())
    assert shown.count("small-") == 2


# --- what a cluster is asked for ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "device", "n_gpus", "asked"),
    [
        ({}, None, 1, {"gpus_per_node": 1}),
        ({}, None, 4, {"gpus_per_node": 4}),
        ({"gpus": 1}, "cuda", 4, {"gpus_per_node": 4}),
        ({"gpus": 2}, None, 1, {"gpus_per_node": 2}),
        ({"gres": "gpu:a100:1"}, None, 4, {"slurm_gres": "gpu:a100:4"}),
        ({"gres": "gpu"}, None, 2, {"slurm_gres": "gpu:2"}),
        ({"gres": "gpu:1"}, None, 2, {"slurm_gres": "gpu:2"}),
        ({"gres": "gpu:1g.10gb:1"}, None, 2, {"slurm_gres": "gpu:1g.10gb:2"}),
        ({"gpus": 0}, "cpu", 4, {}),
    ],
)
def test_a_task_asks_for_all_of_its_gpus(profile, device, n_gpus, asked):
    found = with_gpus(SlurmProfile(**profile), device, n_gpus).submitit_parameters(gpus=n_gpus, name="x")
    assert {name: found[name] for name in ("gpus_per_node", "slurm_gres") if name in found} == asked


@pytest.mark.parametrize(
    ("profile", "complaint"),
    [
        ({"gpus": 0}, "gives its tasks no GPU, and 4 were asked for"),
        ({"gres": "gpu:1,nvme:2"}, "as gpu:TYPE:N"),
    ],
)
def test_gpus_that_a_profile_cannot_give(profile, complaint):
    with pytest.raises(SpdToolsError, match=complaint):
        with_gpus(SlurmProfile(**profile), None, 4)


@pytest.fixture
def submitted(monkeypatch):
    """What would be queued."""
    found = []
    monkeypatch.setattr("spd_tools.launch.training.start_job", lambda **job: found.append(job))
    return found


def test_a_cluster_gets_one_task_with_all_gpus(config, submitted):
    start_decompose(request_of(config), slurm=SlurmProfile(), n_gpus=4)
    start_decompose(replace(request_of(config), device=None), slurm=SlurmProfile(prepare="here"), n_gpus=4)
    on_cpu, on_gpus = ([(s.name, s.n_tasks, s.gpus, s.here) for s in job["graph"].steps] for job in submitted)
    assert on_cpu == [("prepare", 1, 0, False), ("train", 1, 0, False)]
    assert on_gpus == [("prepare", 1, 0, True), ("train", 1, 4, False)]
    assert submitted[1]["profile"].gpus == 4
    assert submitted[0]["request"]["request"]["configuration"]["document"]["steps"] == STEPS


def test_a_pretraining_is_queued_likewise(submitted):
    start_pretrain(PretrainRequest(config=story_model()), slurm=SlurmProfile(), n_gpus=2)
    assert [(step.kind, step.gpus) for step in submitted[0]["graph"].steps] == [
        ("pretrain-prepare", 0),
        ("pretrain", 2),
    ]
    assert submitted[0]["request"]["request"]["config"]["steps"] == 3
    endless = PretrainRequest(config=story_model(lr_schedule={"start_val": float("inf")}))
    with pytest.raises(SpdToolsError, match="tiny holds a value or a key"):
        start_pretrain(endless, slurm=SlurmProfile())


def test_a_configuration_that_a_job_cannot_hold_is_not_queued(config, submitted):
    config.write_text(config.read_text() + "wandb_run_name: 2026-01-31\n")
    with pytest.raises(SpdToolsError, match=r"small.yaml holds a value .* put it in quotes"):
        start_decompose(request_of(config), slurm=SlurmProfile())
    assert submitted == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"source": "tms_5-3"}, "did you mean tms_5-2"),
        ({"source": "ss_llama"}, None),
        ({"source": "ss_llama_simple"}, "needs a target that is pretrained first"),
        ({"device": "cuda:1"}, "say --device cuda instead of cuda:1"),
    ],
)
def test_what_cannot_be_trained_is_not_queued(changes, complaint, config, submitted):
    request = replace(request_of(config), **changes)
    if complaint is None:
        start_decompose(request, slurm=SlurmProfile())
        assert submitted[0]["subject"] == "ss_llama"
        return
    with pytest.raises(SpdToolsError, match=complaint):
        start_decompose(request, slurm=SlurmProfile())
    assert submitted == []
