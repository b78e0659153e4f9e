"""What SLURM is asked for, and what its answers are taken for; its commands are recorded fakes here."""

import fcntl
import json
import os
import re
import stat
from pathlib import Path

import pytest

from spd_tools.errors import SpdToolsError
from spd_tools.launch import control, logs, slurm
from spd_tools.launch.control import cancel_job, retry_job, start_job
from spd_tools.launch.folder import JobFolder
from spd_tools.launch.graph import Graph, Step
from spd_tools.launch.logs import follow_log
from spd_tools.launch.profiles import SlurmProfile
from spd_tools.launch.snapshot import Snapshot
from spd_tools.launch.state import TaskFile
from spd_tools.launch.status import job_status

WORK = Step(name="work", kind="harvest-work", n_tasks=3, gpus=1, max_concurrent=2)
GRAPH = Graph(
    steps=(
        Step(name="prepare", kind="harvest-prepare"),
        WORK.model_copy(update={"after": ("prepare",)}),
        Step(name="merge", kind="harvest-merge", after=("work",)),
    )
)
SBATCH = """#!/bin/sh
cd "$(dirname "$0")"
cmp -s count refuse && { echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1; }
n=$(($(cat count) + 1)); echo $n > count
cp "$1" script-$n; env > environment-$n
echo "Submitted batch job $n"
"""
SQUEUE = """#!/bin/sh
cd "$(dirname "$0")"; echo "$@" >> asked
[ -e down ] && { echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }
cat queue
"""
SCANCEL = """#!/bin/sh
cd "$(dirname "$0")"; echo "$@" >> cancelled
"""


class Cluster:
    """A SLURM that says what the test wants."""

    def __init__(self, folder):
        self.folder = folder
        for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "srun": "#!/bin/sh\n"}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(stat.S_IRWXU)
        (folder / "count").write_text("0\n")
        self.is_called("here")
        self.says()

    def is_called(self, name):
        """As SLURM calls it."""
        (self.folder / "scontrol").write_text(f"#!/bin/sh\necho 'ClusterName             = {name}'\n")
        (self.folder / "scontrol").chmod(stat.S_IRWXU)

    def says(self, job=None, **states):
        """Of a job's ids, with an underscore before the first digit."""
        lines = (f"{name[1:]}|{state}|{job.id}-any|Priority" for name, state in states.items())
        (self.folder / "queue").write_text("\n".join(lines) + "\n")

    def options(self, n):
        """Options of a submission's script."""
        found = re.findall(r"^#SBATCH --(\S+?)(?:=(.*))?$", (self.folder / f"script-{n}").read_text(), re.MULTILINE)
        return {name: value.strip("'") for name, value in found}

    @property
    def n_submissions(self):
        return int((self.folder / "count").read_text())

    def cancelled(self):
        path = self.folder / "cancelled"
        return sorted(path.read_text().split()) if path.exists() else []


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr("submitit.core.core.PicklingExecutor._throttle", lambda self: None)

    def take(path, *, allow_dirty):
        snapshot = Snapshot(kind="wheel", commit=None, dirty=False, version="1", code=None)
        (path / "snapshot.json").write_text(snapshot.model_dump_json())

    monkeypatch.setattr(control, "take_snapshot", take)
    return Cluster(folder)


def start(graph=GRAPH, profile=None):
    profile = profile or SlurmProfile()
    return start_job(kind="try", subject="x", request={}, graph=graph, executor="slurm", profile=profile)


def end(job, step, rank, status, number=1, **changes):
    """Let a task say how it ended."""
    file = TaskFile.begin(JobFolder(job.folder).tasks, step, rank, number)
    file.update(status=status, **changes)
    file.close()


def test_an_array_waits_for_what_comes_before_it_and_the_merge_for_the_array(cluster):
    job = start()
    assert cluster.n_submissions == 3
    prepare, work, merge = (cluster.options(n) for n in (1, 2, 3))
    assert "dependency" not in prepare
    assert (work["array"], work["dependency"], work["gpus-per-node"]) == ("0-2%2", "afterok:1", "1")
    assert (merge["dependency"], "array" in merge, "gpus-per-node" in merge) == ("afterok:2", False, False)
    assert work["kill-on-invalid-dep"] == merge["kill-on-invalid-dep"] == "yes"
    assert [task.slurm_id for task in job.step("work").tasks] == ["2_0", "2_1", "2_2"]


def test_the_profile_is_kept_for_retries(cluster):
    job = start(profile=SlurmProfile(partition="gpu", time=30, max_gpus=1, umask="0007"))
    assert cluster.options(2)["partition"] == "gpu"
    assert cluster.options(2)["array"] == "0-2%1"
    end(job, "prepare", 0, "failed", error="No network.")
    retry_job(job.id)
    assert {cluster.options(n)["partition"] for n in (4, 5, 6)} == {"gpu"}
    assert "umask 0007" in (cluster.folder / "script-5").read_text()


def test_variables_of_an_outer_job_do_not_reach_the_new_one_but_the_cluster_is_the_same(cluster, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/some/slurm.conf")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    start(Graph(steps=GRAPH.steps[:1]))
    assert "SBATCH_ACCOUNT=mine" in (cluster.folder / "environment-1").read_text()
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    start_job(kind="try", subject="x", request={"n": 2}, graph=Graph(steps=GRAPH.steps[:1]), executor="slurm")
    inner = (cluster.folder / "environment-2").read_text()
    assert "SLURM_CONF=/some/slurm.conf" in inner
    assert "SLURM_GPUS_ON_NODE" not in inner
    assert os.environ["SLURM_GPUS_ON_NODE"] == "2"


def test_what_squeue_says_is_what_a_task_is(cluster):
    job = start()
    end(job, "prepare", 0, "finished", result={})
    end(job, "work", 0, "running")
    end(job, "work", 1, "running")
    cluster.says(job, _2_0="RUNNING", _2_1="PENDING", _2_2="PENDING", _3="PENDING")
    shown = job_status(job.id)
    assert [task.status for task in shown.step("work").tasks] == ["running", "pending", "pending"]
    assert "requeued" in shown.step("work").tasks[1].why
    assert shown.step("merge").status == "pending"


def test_a_task_that_slurm_ended_or_forgot_is_lost_and_what_waits_for_it_is_skipped(cluster):
    job = start()
    end(job, "prepare", 0, "finished", result={})
    end(job, "work", 0, "running")
    cluster.says(job, _2_0="OUT_OF_MEMORY", _2_2="COMPLETING", _3="CANCELLED")
    shown = job_status(job.id)
    assert [task.status for task in shown.step("work").tasks] == ["lost", "lost", "running"]
    assert "OUT_OF_MEMORY" in shown.step("work").tasks[0].why
    assert "does not know job 2_1" in shown.step("work").tasks[1].why
    cluster.says()
    assert job_status(job.id).step("merge").status == "skipped"


def test_where_squeue_does_not_answer_nothing_is_given_up(cluster):
    job = start()
    end(job, "prepare", 0, "running")
    (cluster.folder / "down").touch()
    task = job_status(job.id).step("prepare").tasks[0]
    assert (task.status, "said last" in task.why) == ("running", True)


def test_whoever_follows_a_queued_task_sees_its_log_from_the_first_line(cluster, monkeypatch):
    monkeypatch.setattr(logs, "FOLLOW_SECONDS", 0)
    monkeypatch.setitem(logs.ASK_SECONDS, "slurm", 0)
    job = start(Graph(steps=GRAPH.steps[:1]))
    cluster.says(job, _1="PENDING")
    folder = JobFolder(job.folder)
    (folder.submitit / "1_0_log.out").write_text("said by submitit, before the task has a log\n")
    lines = follow_log(job.id, "prepare", 0)
    assert next(lines).startswith("said by submitit")
    folder.log("prepare", 0).write_text("first\nsecond\n")
    end(job, "prepare", 0, "finished", result={})
    assert list(lines) == ["first", "second"]


def test_a_job_of_another_cluster_is_not_given_up_and_can_be_cancelled_only_there(cluster):
    job = start()
    assert job.cluster == "here"
    end(job, "prepare", 0, "finished", result={})
    end(job, "work", 0, "running")
    cluster.is_called("there")
    cluster.says()
    shown = job_status(job.id)
    assert [task.status for task in shown.step("work").tasks] == ["running", "pending", "pending"]
    assert shown.step("work").tasks[1].why == "Only cluster here knows; this is what the task itself said last."
    for change in (cancel_job, retry_job):
        with pytest.raises(SpdToolsError, match="submitted to cluster here, and this machine belongs to there"):
            change(job.id)
    assert cluster.cancelled() == []
    assert all(submission.cancelled is None for submission in JobFolder(job.folder).submissions())
    cluster.is_called("here")
    assert job_status(job.id).step("work").tasks[1].status == "lost"


def test_a_job_that_another_cluster_was_done_with_is_retried_here(cluster):
    job = start()
    end(job, "prepare", 0, "failed", error="No network.")
    cluster.is_called("there")
    cancelled = cluster.cancelled()
    assert retry_job(job.id).cluster == "there"
    assert cluster.cancelled() == cancelled
    cluster.says(job, _4="PENDING", _5_0="PENDING", _5_1="PENDING", _5_2="PENDING", _6="PENDING")
    cancel_job(job.id)
    assert cluster.cancelled() != cancelled


def test_a_task_that_has_ended_by_its_own_account_needs_no_squeue(cluster):
    job = start(Graph(steps=GRAPH.steps[:1]))
    (cluster.folder / "asked").unlink(missing_ok=True)
    end(job, "prepare", 0, "finished", result={"n": 1})
    assert job_status(job.id).result == {"n": 1}
    assert not (cluster.folder / "asked").exists()


def test_a_retry_submits_the_failed_rank_and_the_merge_after_all_that_is_open(cluster):
    job = start()
    end(job, "prepare", 0, "finished", result={})
    end(job, "work", 0, "finished", result={})
    end(job, "work", 1, "failed", error="Bad luck.")
    cluster.says(job, _2_2="RUNNING", _3="PENDING")
    job = retry_job(job.id)
    assert cluster.cancelled() == ["3"]  # it waited for what had failed
    again, merge = cluster.options(4), cluster.options(5)
    assert "array" not in again  # one rank alone
    assert "dependency" not in again  # prepare has finished, and SLURM may have forgotten it
    assert sorted(merge["dependency"].split(":")) == ["2_2", "4", "afterok"]
    assert [task.slurm_id for task in job.step("work").tasks] == ["2_0", "4", "2_2"]


def test_a_cancel_goes_to_all_that_was_submitted_and_pending_elements_count_as_cancelled(cluster):
    job = start(profile=SlurmProfile(job_suffix="mine"))
    end(job, "prepare", 0, "finished", result={})
    cluster.says(job, _2_0="RUNNING", _2_1="PENDING", _2_2="PENDING", _3="PENDING")
    cancel_job(job.id)
    assert cluster.cancelled() == [f"--name={job.id}-{step}-mine" for step in ("merge", "prepare", "work")]
    assert [cluster.options(n)["job-name"] for n in (1, 2, 3)] == [
        f"{job.id}-{step}-mine" for step in ("prepare", "work", "merge")
    ]
    cluster.says()
    shown = job_status(job.id)
    assert (shown.status, shown.step("work").count("cancelled"), shown.error) == ("cancelled", 3, None)
    retry_job(job.id)
    assert [cluster.options(n).get("dependency") for n in (4, 5)] == [None, "afterok:4"]
    assert cluster.options(4)["job-name"] == f"{job.id}-work-2-mine"


def test_what_slurm_still_has_of_a_cancelled_job_is_not_cancelled_yet(cluster):
    job = start()
    end(job, "prepare", 0, "finished", result={})
    end(job, "work", 0, "running")
    cluster.says(job, _2_0="RUNNING", _2_1="PENDING", _2_2="PENDING", _3="PENDING")
    scancel = cluster.folder / "scancel"
    scancel.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    with pytest.raises(SpdToolsError, match="Unable to contact slurm controller"):
        cancel_job(job.id)
    shown = job_status(job.id)
    assert [task.status for task in shown.step("work").tasks] == ["running", "pending", "pending"]
    assert "SLURM still has it (RUNNING)" in shown.step("work").tasks[0].why
    with pytest.raises(SpdToolsError, match="being stopped"):
        retry_job(job.id)
    scancel.write_text(SCANCEL)
    cancel_job(job.id)
    cluster.says(job, _2_0="COMPLETING", _2_1="CANCELLED", _2_2="CANCELLED", _3="CANCELLED")
    assert [task.status for task in job_status(job.id).step("work").tasks] == ["running", "cancelled", "cancelled"]
    cluster.says()
    assert job_status(job.id).status == "cancelled"


def test_a_number_that_slurm_has_given_to_somebody_else_is_not_ours(cluster):
    job = start(Graph(steps=GRAPH.steps[:1]))
    cluster.says(job, _1="RUNNING")
    assert job_status(job.id).status == "running"
    cluster.says(job.model_copy(update={"id": "somebodys"}), _1="RUNNING")
    assert job_status(job.id).status == "lost"


def test_a_task_that_completed_has_its_word_on_the_way(cluster):
    """A file system may show here what a node wrote there half a minute ago."""
    job = start(Graph(steps=GRAPH.steps[:1]))
    end(job, "prepare", 0, "running")
    cluster.says(job, _1="COMPLETED")
    assert job_status(job.id).status == "running"
    cluster.says(job, _1="FAILED")
    assert job_status(job.id).status == "lost"


def test_filters_of_the_users_squeue_do_not_hide_tasks(cluster, monkeypatch):
    job = start(Graph(steps=GRAPH.steps[:1]))
    squeue = cluster.folder / "squeue"
    squeue.write_text(squeue.read_text().replace("cat queue", '[ -n "$SQUEUE_PARTITION" ] || cat queue'))
    monkeypatch.setenv("SQUEUE_PARTITION", "debug")
    cluster.says(job, _1="RUNNING")
    assert job_status(job.id).status == "running"


def test_an_array_whose_submitter_was_killed_before_noting_its_ids_is_known_by_its_own_account(cluster, monkeypatch):
    job = start(Graph(steps=GRAPH.steps[:1]))
    path = job.folder / "submissions.json"
    path.write_text(path.read_text().replace('"0": "1"', ""))
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    end(job, "prepare", 0, "running")
    cluster.says(job, _1="RUNNING")
    task = job_status(job.id).step("prepare").tasks[0]
    assert (task.status, task.slurm_id) == ("running", "1")


@pytest.mark.parametrize("slurm_id", ["--user=me", "1 2", "1_2_3", "1\n"])
def test_what_goes_to_slurms_commands_can_only_be_an_id(cluster, slurm_id):
    job = start(Graph(steps=GRAPH.steps[:1]))
    path = job.folder / "submissions.json"
    path.write_text(path.read_text().replace('"0": "1"', f'"0": {json.dumps(slurm_id)}'))
    with pytest.raises(SpdToolsError, match=r"submissions\.json cannot be read"):
        job_status(job.id)


def test_ctrl_c_while_queueing_leaves_nothing_in_the_queue(cluster, monkeypatch):
    calls = []

    def interrupted(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        return queue(*arguments)

    queue = slurm._queue
    monkeypatch.setattr(slurm, "_queue", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start()
    [folder] = JobFolder.all()
    assert cluster.cancelled() == [f"--name={folder.id}-{step}" for step in ("merge", "prepare", "work")]
    assert "interrupted" in job_status(folder.id).error
    assert job_status(folder.id).status == "lost"


def test_a_refusal_is_a_sentence_and_leaves_nothing_in_the_queue(cluster):
    (cluster.folder / "refuse").write_text("0\n")
    with pytest.raises(SpdToolsError, match="invalid partition specified: nope"):
        start()
    assert JobFolder.all() == []
    (cluster.folder / "cancelled").unlink()
    (cluster.folder / "refuse").write_text("2\n")
    with pytest.raises(SpdToolsError, match="invalid partition"):
        start()
    [folder] = JobFolder.all()
    assert cluster.cancelled() == [f"--name={folder.id}-{step}" for step in ("merge", "prepare", "work")]
    assert "invalid partition" in job_status(folder.id).error


def test_a_step_that_runs_here_is_waited_for_by_a_scheduler(cluster, monkeypatch):
    started, locks = [], []

    def living(job, number):
        started.append(number)
        locks.append((job.path / "lock").open("rb"))
        fcntl.flock(locks[0], fcntl.LOCK_EX)

    monkeypatch.setattr(control, "_start_scheduler", living)
    here = GRAPH.steps[0].model_copy(update={"here": True})
    job = start(Graph(steps=(here, *GRAPH.steps[1:])))
    assert (started, cluster.n_submissions) == ([1], 0)
    assert job.step("work").status == "pending"
    end(job, "prepare", 0, "finished", result={})
    slurm.queue_submission(JobFolder(job.folder), 1)
    assert cluster.n_submissions == 2
    assert "dependency" not in cluster.options(1)


def test_submitits_command_runs_the_jobs_code(cluster):
    start(Graph(steps=GRAPH.steps[:1]))
    script = (cluster.folder / "script-1").read_text()
    assert script.index("set -e") < script.index("export PYTHONSAFEPATH=1") < script.index("srun")
    assert Path(cluster.options(1)["output"]).parent.name == "submitit"
