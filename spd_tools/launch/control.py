"""Start, cancel and retry jobs."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spd_tools.errors import SpdToolsError
from spd_tools.launch.doubled import refuse_doubled
from spd_tools.launch.folder import (
    Executor,
    JobFolder,
    JobRequest,
    here,
    jobs_dir,
    latest_submission,
    new_id,
    plain,
)
from spd_tools.launch.graph import Graph
from spd_tools.launch.profiles import SlurmProfile
from spd_tools.launch.scheduler import signal_task
from spd_tools.launch.slurm import (
    cancel,
    cancel_submission,
    check_cluster,
    check_slurm,
    cluster_name,
    queue_submission,
)
from spd_tools.launch.snapshot import read_snapshot, take_snapshot
from spd_tools.launch.state import read_states
from spd_tools.launch.status import ACTIVE, Job, TaskView, job_status, list_jobs
from spd_tools.launch.version import installed_version
from spd_tools.locks import locked

Ranks = dict[str, tuple[int, ...]]
_AT_WORK = "{} is still at work; retry it when it has ended, or cancel it first."
_LEAVING_SECONDS = 10.0


def start_job(
    *,
    kind: str,
    subject: str,
    request: Any,
    graph: Graph,
    executor: Executor = "local",
    profile: SlurmProfile | None = None,
    allow_dirty: bool = False,
) -> Job:
    """Start a graph; it goes on when this process has left.

    Args:
        kind: first part of the job's id.
        subject: what the job is about, for lists.
        request: what the user asked for, as JSON.
        graph: what to do.
        executor: local: processes of this machine, which run the code where it is. slurm: jobs of a cluster, which run
            a copy of it.
        profile: of slurm.
        allow_dirty: let the copy have tracked changes that were not committed.

    A request that is being worked on already, from the same folder, is not started again: its job is returned.

    Raises:
        SpdToolsError: when no folder can be made, no process started, the code not copied, SLURM refuses, the request
            is being worked on by the other executor, or another job makes the same harvest.
    """
    if executor == "slurm":
        check_slurm()
    wanted = JobRequest(
        id=new_id(kind),
        kind=kind,
        subject=subject,
        request=plain(request),
        executor=executor,
        profile=None if profile is None else profile.model_dump(mode="json", exclude_unset=True),
        cwd=here(),
        created=time.time(),
        version=installed_version(),
    )
    with _nobody_else_starts():  # two that ask for the same at the same time get the same job
        jobs = list_jobs()
        found = _at_work_on(wanted, jobs)
        if found is not None:
            return found
        refuse_doubled(graph.steps, wanted.cwd, jobs)
        return _start(wanted, graph, allow_dirty)


@contextmanager
def _nobody_else_starts() -> Iterator[None]:
    root = jobs_dir()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpdToolsError(
            f"No job could be made in {root}: {error.strerror}; free space or choose another SPD_OUT_DIR."
        ) from error
    with locked(root / ".lock"):
        yield


def _at_work_on(wanted: JobRequest, jobs: list[Job]) -> Job | None:
    for job in jobs:
        if job.status not in ACTIVE or (job.kind, job.request) != (wanted.kind, wanted.request):
            continue
        if JobFolder(job.folder).request().cwd != wanted.cwd:  # relative paths mean other things there
            continue
        if job.executor != wanted.executor:
            where = "a SLURM cluster" if job.executor == "slurm" else "processes of one machine"
            raise SpdToolsError(f"{job.id} is doing that already, on {where}; wait for it or cancel it first.")
        return job
    return None


def _start(wanted: JobRequest, graph: Graph, allow_dirty: bool) -> Job:
    job = JobFolder.create(wanted, graph)
    try:
        if wanted.executor == "slurm":
            take_snapshot(job.path, allow_dirty=allow_dirty)
        with locked(job.path / "retry.lock"):
            _submit(job, {step.name: step.ranks for step in graph.steps})
    except BaseException:
        if not any(part.ids for submission in job.submissions() for part in submission.steps):
            job.remove()  # nothing of it ever began
        raise
    return job_status(job.id)


def cancel_job(job_id: str) -> Job:
    """End everything of a job that has not ended; what its tasks have saved stays.

    Raises:
        SpdToolsError: for an unknown job, one that has nothing to cancel, or when its processes cannot be reached.
    """
    job = JobFolder.find(job_id)
    before = job_status(job_id)
    if before.status not in ACTIVE:
        raise SpdToolsError(f"{job_id} is {before.status} already; there is nothing to cancel.")
    check_cluster(job)
    job.note_cancelled()
    for submission in job.submissions():
        if submission.executor == "slurm":
            cancel_submission(job, submission)
    if not job.scheduler_lives():
        _stop_orphans(job)
    return job_status(job_id)


def retry_job(job_id: str) -> Job:
    """Do again what failed, was lost or cancelled, and what comes after it; what has finished or runs is left alone.

    Raises:
        SpdToolsError: when there is nothing to do again, a local job is still at work, or another job has taken to
            making the same harvest.
    """
    job = JobFolder.find(job_id)
    with _nobody_else_starts(), locked(job.path / "retry.lock"):
        _retry(job)
    return job_status(job_id)


def _retry(job: JobFolder) -> None:
    job_id = job.id
    before = job_status(job_id)
    if before.status in ACTIVE:
        check_cluster(job)
    if before.status in ACTIVE and job.submissions()[-1].cancelled is not None:
        raise SpdToolsError(f"{job_id} is being stopped; retry it in a moment.")
    if before.status in ACTIVE and job.scheduler_lives():
        raise SpdToolsError(_AT_WORK.format(job_id))
    ranks = _ranks_to_retry(job, before)
    if not ranks:
        what = "has finished" if before.status == "finished" else "is still at work, and nothing of it has failed"
        raise SpdToolsError(f"{job_id} {what}; there is nothing to retry.")
    refuse_doubled((job.graph().step(name) for name in ranks), job.request().cwd, list_jobs(), job_id)
    if before.executor == "slurm":
        check_slurm()
        doomed = [task.slurm_id for step in before.steps for task in _chosen(step.tasks, ranks.get(step.name, ()))]
        cancel({name for name in doomed if name})
    _submit(job, ranks)


def _chosen(tasks: tuple[TaskView, ...], ranks: tuple[int, ...]) -> list[TaskView]:
    """Those that SLURM still has, waiting for what will never be."""
    return [task for task in tasks if task.rank in ranks and task.status in ACTIVE]


def _ranks_to_retry(job: JobFolder, view: Job) -> Ranks:
    again: Ranks = {}
    for step in view.steps:
        ranks = {task.rank for task in step.tasks if task.status not in (*ACTIVE, "finished")}
        if ranks:
            again[step.name] = tuple(sorted(ranks))
    dependents = job.graph().dependents(again)
    for step in view.steps:
        if step.name in dependents:
            again[step.name] = tuple(task.rank for task in step.tasks if task.status not in ("running", "finished"))
    return {step.name: again[step.name] for step in view.steps if again.get(step.name)}


def _submit(job: JobFolder, ranks: Ranks) -> None:
    """Submit tasks: by a scheduler of ours where some run on this machine, else straight to SLURM."""
    request, graph = job.request(), job.graph()
    cluster = cluster_name() if request.executor == "slurm" else None
    if request.executor == "local" or any(graph.step(name).here for name in ranks):
        _wait_for_the_last_scheduler(job)
        _start_scheduler(job, job.submit(request.executor, ranks, cluster).number)
    else:
        queue_submission(job, job.submit(request.executor, ranks, cluster).number)


def _wait_for_the_last_scheduler(job: JobFolder) -> None:
    """Before anything is noted: tasks of a submission that another one has replaced are not done any more."""
    with (job.path / "lock").open("ab") as lock:
        try:
            _wait_for_lock(lock.fileno())
        except BlockingIOError:
            raise SpdToolsError(_AT_WORK.format(job.id)) from None


def _start_scheduler(job: JobFolder, number: int) -> None:
    try:
        with (job.path / "lock").open("ab") as lock, job.scheduler_log.open("ab") as log:
            _wait_for_lock(lock.fileno())
            process = subprocess.Popen(
                [sys.executable, "-m", "spd_tools.launch.scheduler", str(job.path), str(number)],
                env=os.environ | _code_environment(job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock.fileno()],  # the lock is the child's from its first moment on
            )
    except BlockingIOError:
        raise SpdToolsError(_AT_WORK.format(job.id)) from None
    except OSError as error:
        raise SpdToolsError(
            f"{job.id} could not be started: {error.strerror or error}; free space or choose another SPD_OUT_DIR."
        ) from error
    # Somebody has to take note of the end of a child, or its entry stays in the process table.
    threading.Thread(target=process.wait, daemon=True).start()


def _wait_for_lock(descriptor: int) -> None:
    """A scheduler whose last task has ended may still be leaving."""
    deadline = time.monotonic() + _LEAVING_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _code_environment(job: JobFolder) -> dict[str, str]:
    """With which the job's processes run the job's code; without a copy of its own, what runs here."""
    snapshot = read_snapshot(job.path)
    if snapshot is not None:
        return snapshot.environment()
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _stop_orphans(job: JobFolder) -> None:
    """Stop tasks whose scheduler was killed."""
    elsewhere: set[str] = set()
    for step in job.graph().steps:
        for rank, state in read_states(job.tasks, step.name).items():
            latest = latest_submission(job.submissions(), step.name, rank)
            if state.status != "running" or latest is None or not (latest.executor == "local" or step.here):
                continue
            if state.host == socket.gethostname():
                signal_task(job, state, signal.SIGTERM)
            else:
                elsewhere.add(state.host)
    if elsewhere:
        hosts = ", ".join(sorted(elsewhere))
        raise SpdToolsError(f"{job.id} has processes on {hosts} that only a cancel from there can reach; do it there.")
