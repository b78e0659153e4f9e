"""A harvest on a real SLURM: whatever happens on the way, the store is the one that a single process makes."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from llm.stand_in import KEY, StandIn
from readme_model import RuleKnower
from slurm_node import DEADLINE, HARVEST, Desk, running_node, tasks_of, wait_for
from submitit import AutoExecutor

from spd_tools.annotations import Annotations
from spd_tools.launch.profiles import SlurmProfile
from spd_tools.store.reader import open_harvest

pytestmark = pytest.mark.slurm

PIPELINE = """
harvest: {n_batches: 30, batch_size: 64, n_gpus: 2}
intruder: {keys: ["h.0.mlp.down_proj:13"], n_trials: 8}
interpret:
  keys: ["h.0.mlp.down_proj:13", "h.0.mlp.down_proj:21"]
  evals:
    detection: {keys: ["h.0.mlp.down_proj:13"], n_trials: 8}
    fuzzing: null
"""


def test_an_array_and_its_merge_make_the_store_of_one_process(desk, reference):
    job_id = desk.submit("--max-concurrent", 3, workers=4)
    assert desk.store(desk.wait(job_id, "finished")) == reference.store
    workers = tasks_of(desk.job(job_id), "workers")
    assert [task["rank"] for task in workers] == [0, 1, 2, 3]
    assert len({task["slurm_id"].split("_")[0] for task in workers}) == 1
    assert all((task["done"], task["total"], task["attempt"]) == (60, 60, 1) for task in workers)


def test_two_harvests_at_once_in_one_folder(desk, reference):
    submitted = [desk.submit(workers=2), desk.submit(workers=1)]
    assert {job["id"] for job in desk.jobs()} == set(submitted)
    jobs = [desk.wait(job_id, "finished") for job_id in submitted]
    assert jobs[0]["result"]["folder"] != jobs[1]["result"]["folder"]
    assert [desk.store(job) for job in jobs] == [reference.store] * 2


def test_a_pipeline_counts_labels_and_scores(desk, monkeypatch):
    desk.gate("pipeline.yaml").parent.mkdir()
    desk.gate("pipeline.yaml").write_text(PIPELINE)
    with StandIn(RuleKnower()) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        how = ("--config", desk.gate("pipeline.yaml"), "--slurm", "--profile", "one-node")
        job_id = json.loads(desk.run("postprocess", "planted", *how, "--json"))["id"]
        job = desk.wait(job_id, "finished")
    assert [(step["name"], step["status"]) for step in job["steps"]] == [
        (name, "finished") for name in ("prepare", "workers", "merge", "interpret", "intruder", "detection")
    ]
    with desk.at_work():
        notes = Annotations.of(open_harvest("planted"))
        assert {score.method for score in notes.scores("h.0.mlp.down_proj:13")} == {"intruder", "detection"}
    assert api.billed_tokens
    folder = desk.out_dir / "jobs" / job_id
    files = [path for path in folder.rglob("*") if path.is_file() and folder / "code" not in path.parents]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_requeue_while_the_old_process_writes(desk, reference):
    """A node loses its slurmstepd but not the task, SLURM runs the task again, and the old one then wakes up."""
    desk.close_gate("hold-1", "")
    job_id = desk.submit(workers=2)
    old = int(wait_for("rank 1 writes", lambda: desk.gate("holding-1").exists() and desk.gate("holding-1").read_text()))
    task = desk.tasks(job_id, "workers")[1]
    assert task["pid"] == old
    kill_slurmstepd(old)
    desk.node.ask("scontrol", "requeue", task["slurm_id"])
    wait_for("rank 1 runs again", lambda: desk.tasks(job_id, "workers")[1]["attempt"] == 2)
    assert lives(old), "the old process is still in the middle of its write"
    desk.gate("hold-1").unlink()
    job = desk.wait(job_id, "finished")
    wait_for("the old process ends", lambda: not lives(old))
    assert desk.store(job) == reference.store
    assert desk.tasks(job_id, "workers")[1]["status"] == "finished"


def test_a_worker_that_fails_for_good(desk, reference):
    """One rank raises, one is killed as the kernel kills what needs too much memory: it cannot say so itself."""
    desk.close_gate("fail-1", "raise")
    desk.close_gate("fail-2", "kill")
    job_id = desk.submit(workers=3)
    job = desk.wait(job_id, "failed")
    workers, merge = (tasks_of(desk.job(job_id), name) for name in ("workers", "merge"))
    assert [task["status"] for task in workers] == ["finished", "failed", "lost"]
    assert "RuntimeError" in workers[1]["why"]
    assert "2" in workers[2]["why"]
    assert "rank 1" in job["error"]
    assert merge[0]["status"] == "skipped"
    assert merge[0]["attempt"] == 0, "it never ran"
    assert "this rank is broken" in desk.run("jobs", "logs", job_id, "--step", "workers", "--rank", 1)
    shown = desk.run("jobs", "show", job_id)
    assert "failed" in shown
    assert "RuntimeError" in shown

    desk.gate("fail-1").unlink()
    desk.gate("fail-2").unlink()
    desk.run("jobs", "retry", job_id)
    job = desk.wait(job_id, "finished")
    assert desk.store(job) == reference.store
    assert [task["attempt"] for task in desk.tasks(job_id, "workers")] == [1, 2, 2]


def test_cancel_ends_what_runs_and_what_waits(desk, reference):
    desk.close_gate("slow", "0.5")
    job_id = desk.submit("--max-concurrent", 1, workers=3)
    running = wait_for("the first worker counts", lambda: (t := desk.tasks(job_id, "workers"))[0]["done"] and t)
    assert [task["status"] for task in running] == ["running", "pending", "pending"]
    desk.run("jobs", "cancel", job_id)
    desk.wait(job_id, "cancelled")
    wait_for("the queue is empty", lambda: not desk.queued(job_id))
    wait_for("the process is gone", lambda: not lives(running[0]["pid"]))
    assert [task["status"] for task in desk.tasks(job_id, "workers")] == ["cancelled"] * 3
    assert desk.tasks(job_id, "merge")[0]["attempt"] == 0

    desk.gate("slow").unlink()  # for the ranks that have not begun
    desk.run("jobs", "retry", job_id)
    assert desk.store(desk.wait(job_id, "finished")) == reference.store


def test_a_queued_job_runs_the_code_that_it_was_submitted_with(own_desk, reference):
    """And cannot see a module that was in no commit: a job of the old code that asks for it does not find it."""
    desk = own_desk
    package = desk.checkout / "spd_tools"
    with desk.all_cpus_taken():
        job_id = desk.submit(workers=1)
        (package / "untracked_module.py").write_text("raise SystemExit('an untracked module was imported')\n")
        for module in ("harvest/worker.py", "launch/run_task.py", "__init__.py"):
            with (package / module).open("a") as file:
                file.write("\nraise SystemExit('the edited code runs')\n")
    job = desk.wait(job_id, "finished")
    assert desk.store(job) == reference.store
    code = Path(job["folder"]) / "code"
    assert (code / "spd_tools/harvest/worker.py").is_file()
    assert not (code / "spd_tools/untracked_module.py").exists()


def test_changes_have_to_be_allowed(own_desk, reference):
    desk = own_desk
    with (desk.checkout / "spd_tools/harvest/worker.py").open("a") as file:
        file.write("\nimport sys; print('the edited code runs', file=sys.stderr, flush=True)\n")
    refused = desk.try_run(
        "harvest", "planted", "--n-batches", 1, "--batch-size", 1, "--slurm", "--profile", "one-node"
    )
    assert refused.returncode == 1
    assert "spd_tools/harvest/worker.py" in refused.stderr
    assert "--allow-dirty" in refused.stderr
    assert desk.jobs() == []
    job_id = desk.submit("--allow-dirty", workers=1)
    assert desk.store(desk.wait(job_id, "finished")) == reference.store
    assert "the edited code runs" in desk.run("jobs", "logs", job_id, "--step", "workers", "--rank", 0)


def test_without_accounting_the_status_is_the_same(node, reference, tmp_path_factory, tmp_path):
    """sacct does not work there, and submitit by itself would wait for ever for what left no result."""
    settings = {"SLURM_NODE_ACCT": "0", "SLURM_NODE_APT": "0"}
    with running_node(tmp_path_factory.mktemp("no-accounting"), **settings) as plain:
        desk = Desk(reference.checkout, tmp_path, plain)
        desk.close_gate("fail-1", "kill")
        job_id = desk.submit(workers=2)
        job = desk.wait(job_id, "failed", "lost")
        assert [task["status"] for task in tasks_of(job, "workers")] == ["finished", "lost"]
        assert tasks_of(job, "merge")[0]["status"] == "skipped"
        desk.gate("fail-1").unlink()
        desk.run("jobs", "retry", job_id)
        assert desk.store(desk.wait(job_id, "finished")) == reference.store


def test_a_signal_to_a_task_that_has_finished_undoes_nothing(desk):
    """The time limit's warning may come while the interpreter shuts down: it would then kill the process, SLURM would
    take the task for failed, and what depends on it would be cancelled."""
    desk.close_gate("linger", "")
    job_id = desk.submit(workers=1)
    wait_for("the first task has nothing more to do", desk.gate("lingering").exists)
    desk.node.ask("scancel", "--signal=USR2", desk.tasks(job_id, "prepare")[0]["slurm_id"])
    desk.gate("linger").unlink()
    desk.wait(job_id, "finished")
    assert desk.tasks(job_id, "prepare")[0]["attempt"] == 1


def test_a_task_gets_what_its_profile_asks_for(desk):
    profile = SlurmProfile(umask="0027", gpus=1, cpus_per_task=2, setup=("SAID='a b'",), job_suffix="mine", time=5)
    look = "(oct(__import__('os').umask(0)), dict(__import__('os').environ))"
    with desk.at_work():
        executor = AutoExecutor(desk.folder / "jobs", cluster="slurm")
        variables = {"FROM_PROFILE": "it's\t$HOME"}
        executor.update_parameters(**profile.submitit_parameters(gpus=1, name="look", environment=variables))
        job = executor.submit(eval, look)
        wait_for("a result", lambda: job.paths.result_pickle.exists())
        umask, environment = job.result()
    assert umask == "0o27"
    assert environment["FROM_PROFILE"] == "it's\t$HOME"
    assert environment["CUDA_VISIBLE_DEVICES"] in ("0", "1", "2", "3")
    assert (environment["SLURM_CPUS_PER_TASK"], environment["SLURM_JOB_NAME"]) == ("2", "look-mine")


def test_a_profile_can_be_a_file(desk, reference):
    profile = {"partition": "main", "time": 7, "gpus": 0, "cpus_per_task": 2, "job_suffix": "mine"}
    (desk.folder / "profile.yaml").write_text(json.dumps(profile))  # which is YAML
    job_id = desk.submit("--profile", "profile.yaml", "--cpus-per-task", 1, workers=2)
    job = desk.wait(job_id, "finished")
    assert desk.store(job) == reference.store
    shown = desk.node.ask("scontrol", "show", "job", tasks_of(job, "workers")[1]["slurm_id"])
    assert f"JobName={job_id}-workers-mine" in shown
    assert {"Partition=main", "TimeLimit=00:07:00", "CPUs/Task=1"} <= set(shown.split())
    assert job["cluster"] in desk.node.ask("scontrol", "show", "config")

    (desk.folder / "profile.yaml").write_text("partitoin: main\n")
    refused = desk.try_run("harvest", *HARVEST, "--slurm", "--profile", "profile.yaml")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "partitoin" in refused.stderr
    assert [found["id"] for found in desk.jobs()] == [job_id]


def test_whoever_follows_a_queued_task_sees_all_of_its_log(desk):
    with ExitStack() as stack:
        with desk.all_cpus_taken():
            job_id = desk.submit(workers=1)
            following = stack.enter_context(desk.begin("jobs", "logs", job_id, "--step", "workers", "--follow"))
            assert following.stderr is not None
            assert following.stderr.readline() == f"{job_id}, workers, rank 0:\n"
            assert tasks_of(desk.peek(job_id), "workers")[0]["status"] == "pending"
            assert following.poll() is None
        printed, _ = following.communicate(timeout=DEADLINE)
    assert following.returncode == 0
    log = desk.run("jobs", "logs", job_id, "--step", "workers", "--rank", 0)
    assert log.startswith("--- attempt 1 at ")
    assert printed.endswith(log), "submitit may have said something before the task had a log"


def test_a_set_up_line_that_fails_ends_the_job(desk):
    profile = SlurmProfile(setup=("false",), time=5)
    with desk.at_work():
        executor = AutoExecutor(desk.folder / "jobs", cluster="slurm")
        executor.update_parameters(**profile.submitit_parameters(gpus=0, name="look"))
        job = executor.submit(print, "Python was started")
        shown = wait_for("its end", lambda: (t := desk.node.ask("scontrol", "show", "job", job.job_id)) and ended(t))
    assert "JobState=FAILED" in shown
    assert not job.paths.result_pickle.exists()


def test_a_time_out_saves_and_goes_on(timed_out, reference):
    """Submitted before the first test: the time limit is a minute, the least that SLURM has."""
    desk, job_id = timed_out
    job = desk.wait(job_id, "finished")
    assert desk.store(job) == reference.store
    *earlier, last = desk.attempts(job_id, "workers", 0)
    assert [state["status"] for state in earlier] == ["requeued"] * max(1, len(earlier))
    assert last["status"] == "finished"
    assert last["done_before"] == earlier[-1]["done"] > 0, "nothing is lost and nothing counted twice"
    assert "attempt 1" in desk.run("jobs", "logs", job_id, "--step", "workers", "--rank", 0)


def kill_slurmstepd(pid: int) -> None:
    """Kill the daemon that looks after a task's process, which itself goes on."""
    while pid > 1:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        if fields["Name"] == "slurmstepd":
            os.kill(pid, 9)
            return
        pid = int(fields["PPid"])
    raise AssertionError("the task has no slurmstepd")


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(shown: str) -> str | None:
    return None if any(f"JobState={state}" in shown for state in ("PENDING", "RUNNING", "COMPLETING")) else shown
