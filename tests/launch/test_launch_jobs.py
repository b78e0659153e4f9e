"""Jobs of this machine, with tasks that take no time."""

import fcntl
import os
import signal
from pathlib import Path

import pytest
from forks import Fork, ForkedJob, ended, use_forks, wait_until

from spd_tools.errors import SpdToolsError
from spd_tools.launch import control, kinds, run_task
from spd_tools.launch.control import cancel_job, retry_job, start_job
from spd_tools.launch.folder import JobFolder
from spd_tools.launch.graph import Graph, Step
from spd_tools.launch.kinds import Kind
from spd_tools.launch.logs import log_path, newest_log, read_log
from spd_tools.launch.status import job_status, list_jobs
from spd_tools.store.records import Record


class Place(Record):
    """Where tasks leave what they did."""

    folder: Path


def act(arguments, context):
    """What a file in the folder says that this task should do."""
    name = f"{context.step}-{context.rank}"
    folder = arguments.folder
    note(folder, f"begin {name} {os.environ['CUDA_VISIBLE_DEVICES']} {os.environ.get('OMP_NUM_THREADS')}")
    context.report(1, 2, "things")
    if (folder / f"fail-{name}").exists():
        raise SpdToolsError(f"{name} has no luck.")
    if (folder / f"crash-{name}").exists():
        raise ZeroDivisionError
    if (folder / f"wait-{name}").exists():
        wait_until(lambda: not (folder / f"wait-{name}").exists())
    if (folder / "meet").exists():
        wait_until(lambda: len(running(folder)) >= 2 or (folder / "met").exists())
        (folder / "met").touch()
    note(folder, f"end {name}")
    return {"name": name}


def gather(arguments, context):
    note(arguments.folder, "gathered " + " ".join(result["name"] for result in context.results("work")))
    return {"all": True}


def note(folder, line):
    with (folder / "notes").open("a") as file:
        file.write(line + "\n")


def notes(folder):
    return (folder / "notes").read_text().splitlines() if (folder / "notes").exists() else []


def running(folder):
    begun = [line.split()[1] for line in notes(folder) if line.startswith("begin")]
    return set(begun) - {line.split()[1] for line in notes(folder) if line.startswith("end")}


ACT, GATHER = Kind(Place, act), Kind(Place, gather)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    return place


@pytest.fixture
def schedulers(monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", {"act": f"{__name__}:ACT", "gather": f"{__name__}:GATHER"})
    monkeypatch.setattr(run_task, "REPORT_SECONDS", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = use_forks(monkeypatch)
    yield found
    for process in found.started:
        process.send_signal(signal.SIGKILL)


@pytest.fixture
def start(schedulers, folder):
    """Start a job of ``n`` tasks and one that comes after them."""

    def start(n=2, gpus=0, max_concurrent=None, **request):
        arguments = {"folder": str(folder)}
        work = Step(name="work", kind="act", arguments=arguments, n_tasks=n, gpus=gpus, max_concurrent=max_concurrent)
        graph = Graph(steps=(work, Step(name="merge", kind="gather", arguments=arguments, after=("work",))))
        return start_job(kind="try", subject="nothing", request=request, graph=graph)

    return start


def attempts(job):
    return [task.attempt for task in job.step("work").tasks]


def test_a_step_runs_after_the_ones_before_it_and_gets_their_results(start, folder):
    job = ended(start(3))
    assert job.status == "finished", job
    assert notes(folder)[-1] == "gathered work-0 work-1 work-2"
    assert job.result == {"all": True}
    assert [task.done for task in job.step("work").tasks] == [2, 2, 2]


def test_a_rank_that_fails_stops_what_comes_after_it_and_a_retry_finishes(start, folder):
    (folder / "fail-work-1").touch()
    job = ended(start(3))
    assert job.status == "failed"
    assert job.error == "work, rank 1: work-1 has no luck."
    assert [task.status for task in job.step("work").tasks] == ["finished", "failed", "finished"]
    assert job.step("merge").status == "skipped"
    (folder / "fail-work-1").unlink()
    job = ended(retry_job(job.id))
    assert job.status == "finished"
    assert attempts(job) == [1, 2, 1]
    assert notes(folder)[-1] == "gathered work-0 work-1 work-2"


def test_a_crash_is_not_hidden(start, folder):
    (folder / "crash-work-0").touch()
    job = ended(start(1))
    assert "unexpected ZeroDivisionError" in job.error
    assert newest_log(job) == ("work", 0)
    assert "ZeroDivisionError" in "\n".join(read_log(log_path(job, "work", 0)))


def test_a_task_that_is_killed_is_lost_and_a_retry_finishes(start, folder):
    (folder / "wait-work-0").touch()
    job = start(2)
    wait_until(lambda: "work-0" in running(folder))
    os.kill(job_status(job.id).step("work").tasks[0].pid, signal.SIGKILL)
    job = ended(job)
    assert (job.status, job.step("merge").status) == ("lost", "skipped")
    assert "killed, out of memory" in job.error
    (folder / "wait-work-0").unlink()
    assert attempts(ended(retry_job(job.id))) == [2, 1]


def test_tasks_of_a_killed_scheduler_go_on_and_a_retry_waits_for_them(start, schedulers, folder):
    (folder / "wait-work-0").touch()
    job = start(2, max_concurrent=1)
    wait_until(lambda: "work-0" in running(folder))
    schedulers.started[0].send_signal(signal.SIGKILL)
    schedulers.started[0].wait()
    wait_until(lambda: not JobFolder(job.folder).scheduler_lives())
    assert [task.status for task in job_status(job.id).step("work").tasks] == ["running", "lost"]
    job = retry_job(job.id)
    (folder / "wait-work-0").unlink()
    job = ended(job)
    assert job.status == "finished", job
    assert attempts(job) == [1, 1]  # the one that lived was not started again


def test_a_cancelled_job_ends_and_a_retry_goes_on(start, schedulers, folder):
    (folder / "wait-work-0").touch()
    job = start(2)
    wait_until(lambda: "work-0" in running(folder) and job_status(job.id).step("work").count("finished") == 1)
    cancel_job(job.id)
    job = ended(job)
    assert schedulers.started[0].wait() == 0
    assert job.status == "cancelled"
    assert [task.status for task in job.step("work").tasks] == ["cancelled", "finished"]
    with pytest.raises(SpdToolsError, match="nothing to cancel"):
        cancel_job(job.id)
    (folder / "wait-work-0").unlink()
    assert ended(retry_job(job.id)).status == "finished"


def test_a_cancel_reaches_the_tasks_of_a_killed_scheduler(start, schedulers, folder):
    (folder / "wait-work-0").touch()
    job = start(1)
    wait_until(lambda: "work-0" in running(folder))
    schedulers.started[0].send_signal(signal.SIGKILL)
    schedulers.started[0].wait()
    cancel_job(job.id)
    assert ended(job).status == "cancelled"


def test_no_more_tasks_than_gpus_run_at_once_and_each_has_its_own(start, folder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5e1f")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (folder / "meet").touch()
    job = ended(start(5, gpus=1))
    assert job.status == "finished"
    busy, most = {}, 0
    for line in notes(folder)[:-1]:
        what, name, *rest = line.split()
        if what == "begin":
            assert rest[0] not in busy.values()
            busy[name] = rest[0]
            most = max(most, len(busy))
        else:
            del busy[name]
    assert most == 2
    assert {task.gpus for task in job.step("work").tasks} == {"3", "GPU-5e1f"}
    assert job.step("merge").tasks[0].gpus == ""


def test_a_cap_holds_on_cpus_and_they_are_shared(start, folder, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("spd_tools.launch.scheduler.n_cpus", lambda: 9)
    (folder / "meet").touch()
    assert ended(start(4, gpus=1, max_concurrent=2)).status == "finished"
    lines = [line.split() for line in notes(folder)[:-1]]
    depth = [sum(1 if line[0] == "begin" else -1 for line in lines[: n + 1]) for n in range(len(lines))]
    assert max(depth) == 2
    assert {line[2] for line in lines if line[0] == "begin"} == {"4"}  # no GPU, 9 // 2 threads


def test_a_step_that_needs_more_gpus_than_there_are_says_so(start, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    job = ended(start(1, gpus=2))
    assert job.status == "lost"
    assert "needs 2 GPUs and this machine has 1" in job.error


def test_a_request_that_is_being_worked_on_is_not_started_twice(start, folder):
    (folder / "wait-work-0").touch()
    first = start(1, what="this")
    assert start(1, what="this").id == first.id
    assert start(1, what="that").id != first.id
    (folder / "wait-work-0").unlink()
    for job in list_jobs():
        ended(job)
    assert start(1, what="this").id != first.id


def test_nothing_is_retried_while_a_job_is_at_work_or_when_it_has_finished(start, folder):
    (folder / "wait-work-0").touch()
    job = start(1)
    with pytest.raises(SpdToolsError, match="still at work"):
        retry_job(job.id)
    (folder / "wait-work-0").unlink()
    job = ended(job)
    wait_until(lambda: not JobFolder(job.folder).scheduler_lives())
    with pytest.raises(SpdToolsError, match="nothing to retry"):
        retry_job(job.id)


def test_an_unknown_job_names_the_newest(start):
    job = ended(start(1))
    for name in ("try-000000000000", "../jobs", "", "/etc", "x" * 300, "a\x00b"):
        with pytest.raises(SpdToolsError, match=job.id):
            job_status(name)


@pytest.mark.parametrize("name", ["request.json", "graph.json", "submissions.json", "tasks/work/00000-000001.json"])
def test_a_damaged_job_hides_no_other_and_says_what_is_damaged(start, name):
    broken, whole = ended(start(1)), ended(start(1))
    (broken.folder / name).write_text("torn")
    assert [job.id for job in list_jobs()] == [whole.id]
    with pytest.raises(SpdToolsError, match=f"{Path(name).name} cannot be read"):
        job_status(broken.id)


def test_no_folder_no_job(start, out_dir):
    out_dir.mkdir()
    (out_dir / "jobs").write_text("in the way")
    with pytest.raises(SpdToolsError, match="No job could be made"):
        start(1)


def test_two_readers_do_not_take_each_other_for_a_process(start):
    job = ended(start(1))
    folder = JobFolder(job.folder)
    wait_until(lambda: not folder.scheduler_lives())
    with (job.folder / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert not folder.scheduler_lives()


def test_submitits_folder_is_for_nobody_else(start):
    assert (ended(start(1)).folder / "submitit").stat().st_mode & 0o777 == 0o700


def test_a_graph_cannot_name_code(start, folder):
    with pytest.raises(SpdToolsError, match="No task kind is called"):
        kinds.find_kind("os:system")


def test_arguments_that_do_not_fit_fail_with_a_sentence(schedulers):
    graph = Graph(steps=(Step(name="work", kind="act", arguments={"folder": 3, "more": 1}),))
    job = ended(start_job(kind="try", subject="nothing", request={}, graph=graph))
    assert "unusable arguments" in job.error
    assert "\n" not in job.error


def test_a_task_that_was_stopped_by_somebody_is_cancelled(start, folder):
    (folder / "wait-work-0").touch()
    job = start(1)
    wait_until(lambda: "work-0" in running(folder))
    os.kill(job_status(job.id).step("work").tasks[0].pid, signal.SIGTERM)
    job = ended(job)
    assert job.status == "cancelled"
    assert "stopped by a signal" in job.step("work").tasks[0].why


def test_the_same_words_in_another_folder_are_another_request(start, folder, tmp_path, monkeypatch):
    (folder / "wait-work-0").touch()
    first = start(1, run="./run")
    monkeypatch.chdir(tmp_path)
    second = start(1, run="./run")
    assert first.id != second.id
    (folder / "wait-work-0").unlink()
    assert {ended(job).status for job in (first, second)} == {"finished"}


def test_what_is_at_work_here_is_not_queued_as_well(start, folder):
    (folder / "wait-work-0").touch()
    job = start(1)
    graph = JobFolder(job.folder).graph()
    with pytest.raises(SpdToolsError, match=f"{job.id} is doing that already, on processes"):
        start_job(kind="try", subject="nothing", request={}, graph=graph, executor="slurm")
    (folder / "wait-work-0").unlink()
    ended(job)


def test_two_that_ask_for_the_same_at_once_get_the_same_job(start, folder):
    (folder / "wait-work-0").touch()
    others = [Fork(lambda: start(1) and 0) for _ in range(3)]
    job = start(1)
    assert [other.wait() for other in others] == [0, 0, 0]
    assert [found.id for found in list_jobs()] == [job.id]
    (folder / "wait-work-0").unlink()
    assert ended(job).status == "finished"


def test_a_retry_that_comes_too_early_leaves_the_job_alone(start, schedulers, folder, monkeypatch):
    """The scheduler of a job all of whose tasks have ended may not have left yet."""
    monkeypatch.setattr(control, "_LEAVING_SECONDS", 0)
    (folder / "fail-work-0").touch()
    job = ended(start(1))
    schedulers.started[0].wait()
    with (job.folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SpdToolsError, match="still at work"):
            retry_job(job.id)
    assert len(JobFolder(job.folder).submissions()) == 1


def test_a_task_whose_controller_was_killed_keeps_its_gpu_and_is_waited_for(start, schedulers, folder, monkeypatch):
    """Between scheduler and task submitit has a process of its own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    done = ForkedJob.done
    monkeypatch.setattr(ForkedJob, "done", lambda self: "work-0" in running(folder) or done(self))
    (folder / "wait-work-0").touch()
    job = start(2, gpus=1)
    wait_until(lambda: "work-0" in running(folder))
    assert [task.status for task in job_status(job.id).step("work").tasks] == ["running", "pending"]
    (folder / "wait-work-0").unlink()
    assert ended(job).status == "finished"


def test_jobs_of_one_folder_share_the_gpus(start, folder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (folder / "wait-work-0").touch()
    first = start(1, gpus=1, what=1)
    wait_until(lambda: "work-0" in running(folder))
    second = start(1, gpus=1, what=2)
    wait_until(lambda: (job_status(second.id).step("work").tasks[0].why or "").startswith("It waits for a GPU"))
    assert attempts(job_status(second.id)) == [0]
    (folder / "wait-work-0").unlink()
    assert [(ended(job).status, job_status(job.id).error) for job in (first, second)] == [("finished", None)] * 2
    assert notes(folder).index("end work-0") < [line[:12] for line in notes(folder)].index("begin work-0", 1)


def test_a_folder_that_disappears_does_not_stop_the_list(start):
    job, gone = ended(start(1)), ended(start(1))
    (gone.folder / "request.json").unlink()
    assert [found.id for found in list_jobs()] == [job.id]


def test_a_job_that_could_not_be_written_leaves_nothing(start, out_dir, monkeypatch):
    def full(path, document):
        raise SpdToolsError("No space left.")

    monkeypatch.setattr("spd_tools.launch.folder.write_json", full)
    with pytest.raises(SpdToolsError, match="No space left"):
        start(1)
    assert [path.name for path in (out_dir / "jobs").iterdir()] == [".lock"]
