"""A harvest as a job: the same files as by hand, whatever happens on the way."""

import functools
import os
import signal
from dataclasses import replace

import pytest
from forks import ended, use_forks, wait_until

from spd_tools.decompositions import planted
from spd_tools.errors import SpdToolsError
from spd_tools.harvest import HarvestRequest, merge_harvest, pipeline, run_harvest
from spd_tools.launch import run_task
from spd_tools.launch.control import cancel_job, retry_job
from spd_tools.launch.harvest import start_harvest
from spd_tools.launch.status import job_status
from spd_tools.store.manifest import read_manifest

REQUEST = HarvestRequest(run="planted", n_batches=7, batch_size=4, world_size=3)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The planted decomposition is built once per test, and its corpus is short."""
    monkeypatch.setattr(pipeline, "PLANTED_ROWS", 64)
    monkeypatch.setattr(planted, "load_planted", functools.cache(planted.load_planted))
    monkeypatch.setattr(run_task, "REPORT_SECONDS", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    planted.load_planted(0)
    schedulers = use_forks(monkeypatch)
    yield schedulers
    for process in schedulers.started:
        process.send_signal(signal.SIGKILL)


@pytest.fixture
def held(monkeypatch, tmp_path):
    """Every worker waits before its second batch until the file is removed."""
    hold = tmp_path / "hold"
    hold.touch()
    run_batch = pipeline.run_batch

    def held_batch(decomposition, rows, *rest):
        states = list(tmp_path.glob("spd_out/jobs/*/tasks/workers/*.json"))
        if any('"done": 1' in path.read_text() and f'"pid": {os.getpid()},' in path.read_text() for path in states):
            wait_until(lambda: not hold.exists())
        return run_batch(decomposition, rows, *rest)

    monkeypatch.setattr(pipeline, "run_batch", held_batch)
    return hold


def by_hand(monkeypatch, tmp_path):
    """Files of the same harvest by ranks that are run one after the other."""
    with monkeypatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(tmp_path / "by_hand"))
        for rank in range(REQUEST.world_size):
            run_harvest(REQUEST, rank=rank, progress=False)
        outcome = merge_harvest("planted", progress=False)
    return outcome.harvest_id, read_manifest(outcome.folder).files


def files(job):
    return job.result["harvest_id"], read_manifest(pipeline.Path(job.result["folder"])).files


def test_three_workers_and_a_merge_write_what_ranks_by_hand_write(monkeypatch, tmp_path):
    job = ended(start_harvest(REQUEST))
    assert job.status == "finished", job
    assert files(job) == by_hand(monkeypatch, tmp_path)
    assert [(task.done, task.total) for task in job.step("workers").tasks] == [(3, 3), (2, 2), (2, 2)]
    again = ended(start_harvest(REQUEST))
    assert again.step("prepare").tasks[0].result["already_finished"]
    assert files(again) == files(job)


def test_cancelled_workers_have_saved_what_they_had_and_go_on_from_there(held, monkeypatch, tmp_path):
    job = start_harvest(REQUEST)
    wait_until(lambda: [task.done for task in job_status(job.id).step("workers").tasks] == [1, 1, 1])
    cancel_job(job.id)
    held.unlink()
    assert ended(job).status == "cancelled"
    saved = [path.read_text() for path in tmp_path.glob("spd_out/harvest/*/*/shards/*/state-*.json")]
    assert len(saved) == 3
    assert all('"name": "segment' in text for text in saved)
    job = ended(retry_job(job.id))
    assert job.status == "finished", job
    assert files(job) == by_hand(monkeypatch, tmp_path)


def test_a_worker_that_fails_is_named_and_only_it_is_run_again(monkeypatch, tmp_path):
    bad = tmp_path / "bad"
    bad.touch()
    work = pipeline.work

    def failing(plan, rank, *rest, **options):
        if rank == 1 and bad.exists():
            raise SpdToolsError("The disk of rank 1 is full; free some space.")
        return work(plan, rank, *rest, **options)

    monkeypatch.setattr(pipeline, "work", failing)
    job = ended(start_harvest(REQUEST))
    assert job.error == "workers, rank 1: The disk of rank 1 is full; free some space."
    assert job.step("merge").status == "skipped"
    bad.unlink()
    job = ended(retry_job(job.id))
    assert job.status == "finished"
    assert [task.attempt for task in job.step("workers").tasks] == [1, 2, 1]
    assert files(job) == by_hand(monkeypatch, tmp_path)


def test_a_merge_that_was_killed_or_overtaken_is_done_again(monkeypatch, tmp_path):
    merge = pipeline.merge_shards
    first = tmp_path / "first"
    first.touch()

    def overtaken(*args, **options):
        manifest = merge(*args, **options)
        if first.exists():
            first.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return manifest

    monkeypatch.setattr(pipeline, "merge_shards", overtaken)
    job = ended(start_harvest(REQUEST))
    assert (job.status, job.step("merge").status) == ("lost", "lost")
    job = ended(retry_job(job.id))
    assert job.status == "finished"
    assert files(job) == by_hand(monkeypatch, tmp_path)


def test_a_request_that_cannot_be_met_says_why():
    job = ended(start_harvest(replace(REQUEST, device="toaster")))
    assert job.status == "failed"
    assert "'toaster' is no device" in job.error


@pytest.mark.parametrize("run", ["no/such/run", "planted:x"])
def test_a_mistyped_run_is_refused_before_anything_is_queued(run, out_dir):
    with pytest.raises(SpdToolsError, match=run):
        start_harvest(replace(REQUEST, run=run))
    assert not (out_dir / "jobs").exists()


def test_one_gpu_by_number_cannot_be_that_of_every_worker():
    with pytest.raises(SpdToolsError, match="say --device cuda"):
        start_harvest(replace(REQUEST, device="cuda:1"))


def test_workers_on_the_cpu_ask_for_no_gpu():
    from spd_tools.launch.harvest import harvest_steps

    assert [step.gpus for step in harvest_steps(replace(REQUEST, device="cpu"))] == [0, 0, 0]
    assert [step.gpus for step in harvest_steps(REQUEST)] == [0, 1, 0]
