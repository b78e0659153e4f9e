import json
import time
import unicodedata

import pytest

from spd_tools.harvest import HarvestRequest
from spd_tools.launch.folder import JobFolder, JobRequest
from spd_tools.launch.graph import Graph
from spd_tools.launch.harvest import harvest_steps
from spd_tools.launch.state import TaskFile

ID = "harvest-0123456789ab"


def job_folder(executor="local"):
    request = JobRequest(
        id=ID,
        kind="harvest",
        subject="demo\x1b[31m",
        request={"run": "planted"},
        executor=executor,
        cwd="/",
        created=1e9,
        version="1",
    )
    steps = harvest_steps(HarvestRequest(run="planted", n_batches=4, batch_size=1, world_size=2))
    folder = JobFolder.create(request, Graph(steps=steps))
    folder.submit(executor, {step.name: step.ranks for step in steps})
    return folder


def task(folder, step, rank, **changes):
    file = TaskFile.begin(folder.tasks, step, rank, 1)
    file.update(ended=time.time(), **changes)
    file.close()


@pytest.fixture
def job(out_dir):
    """A job of which one rank failed; what it says and printed is hostile."""
    folder = job_folder()
    task(folder, "prepare", 0, status="finished", result={"run_id": "planted"})
    task(folder, "workers", 0, status="finished", done=1000, total=1000, unit="batches")
    task(folder, "workers", 1, status="failed", done=7, total=1000, unit="batches", error="The disk is full\x9b.")
    folder.log("workers", 1).write_bytes(b"one\n\x1b[2Jtwo\n")
    return folder


def controls(text):
    return {char for char in text if unicodedata.category(char) in {"Cc", "Cf"}}


def test_jobs_are_listed(job, run, run_json):
    assert [(found["id"], found["status"]) for found in run_json("jobs")] == [(ID, "failed")]
    assert {ID, "demo␛[31m", "failed", "workers:", "1,007", "2,000"} <= set(run("jobs")[1].split())


def test_a_job_is_shown_rank_by_rank_with_its_error_and_the_end_of_its_log(job, run, run_json):
    shown = run_json("jobs", "show", ID)
    assert shown["error"] == "workers, rank 1: The disk is full\x9b."
    assert [step["status"] for step in shown["steps"]] == ["finished", "failed", "skipped"]
    out = run("jobs", "show", ID)[1]
    assert {"one", "␛[2Jtwo"} <= set(out.split())
    assert "The disk is full<U+009B>." in out
    assert controls(out) <= {"\n"}
    assert "Result of prepare" in out


def test_every_step_says_what_came_of_it(job, run):
    result = {"run_id": "planted", "n_scored": 1200, "failed": 0, "unscored": {"no text": 3}, "not_sent": None}
    task(job, "merge", 0, status="finished", result=result)
    lines = [line.split() for line in run("jobs", "show", ID)[1].split("Result of merge")[1].splitlines()]
    assert ["scored", "1,200"] in lines
    assert ["failed", "0"] in lines
    assert ["unscored", "no", "text:", "3"] in lines
    assert not any("sent" in line for line in lines)


def test_the_log_of_what_went_wrong_is_printed_and_another_by_name(job, run, run_json):
    code, out, err = run("jobs", "logs", ID)
    assert (code, out) == (0, "one\n␛[2Jtwo\n")
    assert "rank 1" in err
    job.log("prepare", 0).write_text("prepared\n")
    assert run_json("jobs", "logs", ID, "--step", "prepare")["lines"] == ["prepared"]
    assert run("jobs", "logs", ID, "--step", "prepare", "--follow")[1] == "prepared\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("show", "harvest-000000000000"), ID),
        (("logs", ID, "--step", "merge"), "printed nothing yet"),
        (("logs", ID, "--step", "wokers"), "workers"),
        (("logs", ID, "--rank", "2"), "ranks 0 to 1"),
        (("cancel", ID), "failed already"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(job, run, argv, said):
    code, out, err = run("jobs", *argv)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert said in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--n-gpus", "2", "--rank", "0"), "started by hand"),
        (("--n-gpus", "2", "--world-size", "3"), "started by hand"),
        (("--detach",), "--n-gpus"),
        (("--max-concurrent", "2"), "--n-gpus"),
        (("--partition", "gpu"), "add --slurm"),
        (("--n-gpus", "2", "--allow-dirty"), "add --slurm"),
        (("--slurm", "--time", "soon"), "--time"),
        (("--slurm", "--profile", "no-such"), "no profile"),
    ],
)
def test_flags_that_make_no_sense_together_are_refused(run, out_dir, argv, said):
    code, out, err = run("harvest", "planted", "--n-batches", 1, "--batch-size", 1, *argv)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert said in err
    assert not (out_dir / "jobs").exists()


def test_without_slurm_nothing_is_submitted(run, out_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = run("harvest", "planted", "--n-batches", 1, "--batch-size", 1, "--slurm")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "no sbatch here" in err
    assert not (out_dir / "jobs").exists()


def test_a_watched_job_is_reported_like_any_harvest(run, monkeypatch):
    """The command waits for the job, here one that has been done by the time it is started."""
    from spd_tools.launch import control

    def do_it(job, number):
        result = {"run_id": "planted", "harvest_id": "abc", "already_finished": False}
        task(job, "prepare", 0, status="finished", result=result)
        for rank in (0, 1):
            task(job, "workers", rank, status="finished", result={})
        merged = {"run_id": "planted", "harvest_id": "abc", "folder": "/there", "n_tokens": 64}
        task(job, "merge", 0, status="finished", result=merged)

    monkeypatch.setattr(control, "_start_scheduler", do_it)
    argv = ("harvest", "planted", "--n-batches", 1, "--batch-size", 1, "--n-gpus", 2)
    code, out, err = run(*argv)
    assert (code, out) == (0, "")
    assert "64 tokens, in /there" in err
    code, out, _ = run(*argv, "--json")
    document = json.loads(out)
    assert (code, document["state"], document["harvest_id"]) == (0, "finished", "abc")


def test_a_watched_job_that_fails_says_how_to_go_on(run, monkeypatch):
    from spd_tools.launch import control

    def do_it(job, number):
        task(job, "prepare", 0, status="failed", error="There is no network.")

    monkeypatch.setattr(control, "_start_scheduler", do_it)
    code, out, err = run("harvest", "planted", "--n-batches", 1, "--batch-size", 1, "--n-gpus", 2)
    assert (code, out) == (1, "")
    assert "prepare: There is no network;" in err.splitlines()[-1]
    assert "spd-tools jobs retry harvest-" in err
