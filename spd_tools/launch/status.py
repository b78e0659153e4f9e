"""What has become of a job, from its files and, for tasks in SLURM's hands, its queue. Nothing here changes anything.

A task that has ended has said so itself. For one that has not, somebody must still know it: its process's lock or the
scheduler's on this machine, squeue on a cluster. If nobody does, it is lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from spd_tools.errors import SpdToolsError
from spd_tools.launch.folder import Executor, JobFolder, JobRequest, Submission, latest_submission
from spd_tools.launch.graph import Graph, Step
from spd_tools.launch.slurm import Queued, ask_queue
from spd_tools.launch.state import TaskState, lives, read_states
from spd_tools.store.records import Record

Status = Literal["pending", "running", "finished", "failed", "lost", "cancelled", "skipped"]
ACTIVE: tuple[Status, ...] = ("pending", "running")
_ORDER: tuple[Status, ...] = ("running", "pending", "failed", "lost", "cancelled", "skipped", "finished")
"""A step or a job is what the first of these says that one of its tasks is."""


class TaskView(Record):
    """A task as it stands."""

    rank: int
    status: Status
    """lost: its process is gone without a word; skipped: a step before it did not finish."""
    why: str | None = None
    """One sentence: why it failed, is lost or skipped, or what it waits for."""
    attempt: int = 0
    """0: none has begun."""
    done: int | None = None
    """Units that are done; None: not known."""
    total: int | None = None
    unit: str | None = None
    rate: float | None = None
    """Units per second of this attempt."""
    host: str | None = None
    pid: int | None = None
    slurm_id: str | None = None
    gpus: str | None = None
    started: float | None = None
    """Seconds since the epoch, as are the others."""
    updated: float | None = None
    ended: float | None = None
    result: dict[str, Any] | None = None


class StepView(Record):
    """A step as it stands."""

    name: str
    kind: str
    status: Status
    after: tuple[str, ...]
    tasks: tuple[TaskView, ...]

    def count(self, status: Status) -> int:
        """Tasks that are in a state."""
        return sum(task.status == status for task in self.tasks)


class Job(Record):
    """A job as it stands."""

    id: str
    kind: str
    subject: str
    status: Status
    executor: Executor
    created: float
    ended: float | None
    folder: Path
    request: dict[str, Any]
    steps: tuple[StepView, ...]
    error: str | None
    """The first thing that went wrong, in one sentence that names step and rank."""
    result: dict[str, Any] | None
    """What the last step returned, of a finished job."""

    def step(self, name: str) -> StepView:
        """The step of that name.

        Raises:
            SpdToolsError: when there is none, naming those that there are.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise SpdToolsError(f"{self.id} has no step {name!r}; its steps: {', '.join(s.name for s in self.steps)}.")


class _Files:
    """What a job's folder says, read once."""

    def __init__(self, job: JobFolder) -> None:
        self.job = job
        # In this order: what ends in between is seen as ended, not as lost.
        self.scheduler_lives = job.scheduler_lives()
        self.request: JobRequest = job.request()
        self.graph: Graph = job.graph()
        self.submissions = job.submissions()

    def open_ids(self) -> list[str]:
        """SLURM's ids of tasks that have not ended by their own account."""
        ids: list[str] = []
        for step in self.graph.steps:
            states = read_states(self.job.tasks, step.name)
            for rank in step.ranks:
                ended = rank in states and states[rank].status in ("finished", "failed")
                slurm_id = self.slurm_id(step, rank)
                if slurm_id is not None and not ended:
                    ids.append(slurm_id)
        return ids

    def slurm_id(self, step: Step, rank: int) -> str | None:
        """Id under which a task was queued last."""
        latest = latest_submission(self.submissions, step.name, rank)
        part = latest.of(step.name, rank) if latest is not None else None
        return part.ids.get(rank) if part is not None else None


def job_status(job_id: str) -> Job:
    """A job as it stands.

    Raises:
        SpdToolsError: for an unknown job, or one whose files are damaged.
    """
    files = _Files(JobFolder.find(job_id))
    return _view(files, _ask_for([files]))


def list_jobs() -> list[Job]:
    """All readable jobs, newest first; SLURM is asked once for all of them."""
    found: list[_Files] = []
    for folder in JobFolder.all():
        try:
            found.append(_Files(folder))
        except SpdToolsError:  # a damaged one must not hide the others; asked for by name it says what is wrong
            continue
    queue = _ask_for(found)
    jobs: list[Job] = []
    for files in found:
        try:
            jobs.append(_view(files, queue))
        except SpdToolsError:
            continue
    return sorted(jobs, key=lambda job: (-job.created, job.id))


def _ask_for(found: Iterable[_Files]) -> dict[str, Queued] | None:
    ids: list[str] = []
    for files in found:
        try:
            ids += files.open_ids()
        except SpdToolsError:
            continue
    return ask_queue(ids) if ids else {}


def _view(files: _Files, queue: Mapping[str, Queued] | None) -> Job:
    steps: dict[str, StepView] = {}
    for step in files.graph.steps:
        parents_ended = any(steps[name].status not in (*ACTIVE, "finished") for name in step.after)
        steps[step.name] = _step_view(files, step, queue, parents_ended)
    views = tuple(steps.values())
    request = files.request
    status = _first(view.status for view in views)
    ends = [task.ended for view in views for task in view.tasks if task.ended is not None]
    return Job(
        id=request.id,
        kind=request.kind,
        subject=request.subject,
        status=status,
        executor=request.executor,
        created=request.created,
        ended=max(ends, default=None) if status not in ACTIVE else None,
        folder=files.job.path,
        request=request.request,
        steps=views,
        error=_error(views, files.submissions),
        result=views[-1].tasks[-1].result if status == "finished" else None,
    )


def _step_view(files: _Files, step: Step, queue: Mapping[str, Queued] | None, parents_ended: bool) -> StepView:
    states = read_states(files.job.tasks, step.name)
    tasks = tuple(_task_view(files, step, rank, states.get(rank), queue, parents_ended) for rank in step.ranks)
    return StepView(
        name=step.name, kind=step.kind, status=_first(task.status for task in tasks), after=step.after, tasks=tasks
    )


def _task_view(
    files: _Files,
    step: Step,
    rank: int,
    state: TaskState | None,
    queue: Mapping[str, Queued] | None,
    parents_ended: bool,
) -> TaskView:
    submission = latest_submission(files.submissions, step.name, rank)
    slurm_id = files.slurm_id(step, rank)
    status, why = _judge(files, step, state, submission, slurm_id, queue)
    if parents_ended and status in ("lost", "pending") and (state is None or state.status != "running"):
        before = ", ".join(step.after)
        status, why = "skipped", f"It did not run, as not all of what comes before it ({before}) has finished."
    if state is None:
        return TaskView(rank=rank, status=status, why=why, slurm_id=slurm_id)
    return TaskView(
        rank=rank,
        status=status,
        why=why,
        attempt=state.attempt,
        done=state.done,
        total=state.total,
        unit=state.unit,
        rate=_rate(state),
        host=state.host,
        pid=state.pid,
        slurm_id=slurm_id or state.slurm_id,
        gpus=state.gpus,
        started=state.started,
        updated=state.updated,
        ended=state.ended,
        result=state.result,
    )


def _judge(
    files: _Files,
    step: Step,
    state: TaskState | None,
    submission: Submission | None,
    slurm_id: str | None,
    queue: Mapping[str, Queued] | None,
) -> tuple[Status, str | None]:
    """A task's status, and a sentence about it, apart from what its parents do to it."""
    if state is not None and state.status == "finished":
        return "finished", None
    if submission is None:
        return "lost", "It was never submitted."
    # What an attempt of an earlier submission said is history.
    latest = state if state is not None and state.submission == submission.number else None
    if latest is not None and latest.status == "failed":
        return "failed", latest.error
    if submission.executor == "local" or step.here:
        return _judge_local(files, state, latest, submission)
    if submission.cancelled is not None:
        return "cancelled", None
    if slurm_id is None:
        return _judge_unqueued(files, submission)
    return _judge_slurm(latest, slurm_id, queue)


def _judge_local(
    files: _Files, state: TaskState | None, latest: TaskState | None, submission: Submission
) -> tuple[Status, str | None]:
    if state is not None and state.status == "running" and lives(files.job.tasks, state):
        return "running", "It is being stopped." if submission.cancelled else None
    if submission.cancelled is not None:
        return "cancelled", None
    if latest is not None and latest.status == "stopped":
        return "cancelled", "It was stopped by a signal; what it had done is saved."
    if latest is not None and latest.status == "running":
        return "lost", "Its process is gone without a word: killed, or out of memory; what it had saved is not lost."
    if files.scheduler_lives:
        return "pending", None
    return "lost", submission.error or "The process that would have started it is gone."


def _judge_unqueued(files: _Files, submission: Submission) -> tuple[Status, str | None]:
    if submission.error is not None:
        return "lost", submission.error
    if files.scheduler_lives or time.time() - submission.created < _SUBMITTING_SECONDS:
        return "pending", "It has not been queued yet."
    return "lost", "It was never queued: the process that would have submitted it is gone."


_SUBMITTING_SECONDS = 120.0
"""A submission without a scheduler takes seconds; whoever looks from another host cannot see it."""


def _judge_slurm(
    latest: TaskState | None, slurm_id: str, queue: Mapping[str, Queued] | None
) -> tuple[Status, str | None]:
    if queue is None:
        said: Status = "running" if latest is not None and latest.status == "running" else "pending"
        return said, "squeue does not answer here; this is what the task itself said last."
    known = queue.get(slurm_id)
    if known is None:
        return "lost", f"SLURM does not know job {slurm_id} any more, and it never said how it ended."
    if not known.is_live:
        return "lost", f"SLURM ended job {slurm_id} ({known.state}) before it could say why."
    if known.is_waiting:
        again = "requeued, " if latest is not None else ""
        return "pending", f"SLURM: {again}{known.reason}."
    return "running", None


def _rate(state: TaskState) -> float | None:
    """Units per second, from the first report on."""
    if state.done is None or state.done_before is None:
        return None
    seconds = (state.ended or state.updated) - state.started
    return (state.done - state.done_before) / seconds if seconds > 0 else None


def _first(statuses: Iterable[Status]) -> Status:
    return min(statuses, key=_ORDER.index)


def _error(steps: tuple[StepView, ...], submissions: tuple[Submission, ...]) -> str | None:
    for wanted in ("failed", "lost"):
        for step in steps:
            for task in step.tasks:
                if task.status == wanted:
                    where = step.name if len(step.tasks) == 1 else f"{step.name}, rank {task.rank}"
                    return f"{where}: {task.why}"
    return submissions[-1].error if submissions else "It was never submitted."
