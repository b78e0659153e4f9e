"""What has become of a job, from its files and, for tasks in SLURM's hands, its queue. Nothing here changes anything.

A task that has ended has said so itself. For one that has not, somebody must still know it: its process's lock or the
scheduler's on this machine, squeue on a cluster. If nobody does, it is lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spd_tools.errors import SpdToolsError
from spd_tools.launch.folder import Executor, JobFolder, JobRequest, Submission
from spd_tools.launch.graph import Graph, Step
from spd_tools.launch.machine import gpu_locks
from spd_tools.launch.slurm import Queued, ask_queue, cluster_name
from spd_tools.launch.state import TaskState, lives, look_at_states
from spd_tools.launch.verdicts import Evidence, Status, judge, said_about
from spd_tools.locks import is_locked
from spd_tools.store.records import Record

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
    cluster: str | None
    """SLURM's name of the cluster that it was submitted to last; None: not known, or none."""
    created: float
    ended: float | None
    folder: Path
    request: dict[str, Any]
    steps: tuple[StepView, ...]
    error: str | None
    """The first thing that went wrong, in one sentence that names step and rank."""
    result: dict[str, Any] | None
    """What the last step returned, of a finished job; None if that was many tasks."""

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
        self.elsewhere: set[str] = set()
        """Clusters that cannot be asked from here."""
        self._last: dict[tuple[str, int], tuple[Submission, str | None]] = {}
        for submission in self.submissions:
            for part in submission.steps:
                for rank in part.ranks:
                    self._last[part.step, rank] = submission, part.ids.get(rank)
        self.look()

    def look(self) -> None:
        """Read the states of the tasks (again)."""
        self.states = {step.name: look_at_states(self.job.tasks, step.name) for step in self.graph.steps}

    def evidence(self, step: Step, rank: int) -> Evidence:
        """What is known about a task."""
        submission, queued_as = self._last.get((step.name, rank), (None, None))
        local = submission is not None and submission.executor == "local"
        return Evidence(
            job_id=self.job.id,
            here=local or step.here,
            state=self.states[step.name].get(rank),
            submission=submission,
            queued_as=queued_as,
            scheduler_lives=self.scheduler_lives,
            elsewhere=submission.cluster if submission is not None and submission.cluster in self.elsewhere else None,
        )

    def has_finished(self, name: str) -> bool:
        """Whether all tasks of a step say so."""
        states = self.states[name]
        return all(rank in states and states[rank].status == "finished" for rank in self.graph.step(name).ranks)

    def open_ids(self) -> list[str]:
        """SLURM's ids of tasks that have not ended by their own account."""
        ids: list[str] = []
        for step in self.graph.steps:
            states = self.states[step.name]
            for rank in step.ranks:
                if rank in states and states[rank].status == "finished":
                    continue
                known = self.evidence(step, rank)
                failed = known.latest is not None and known.latest.status == "failed"
                if known.slurm_id is not None and not failed:
                    ids.append(known.slurm_id)
        return ids


def job_status(job_id: str) -> Job:
    """A job as it stands.

    Raises:
        SpdToolsError: for an unknown job, or one whose files are damaged.
    """
    [job] = _views([_Files(JobFolder.find(job_id))])
    return job


def list_jobs() -> list[Job]:
    """All readable jobs, newest first; SLURM is asked once for all of them."""
    found: list[_Files] = []
    for folder in JobFolder.all():
        try:
            found.append(_Files(folder))
        except SpdToolsError:  # a damaged one must not hide the others; asked for by name it says what is wrong
            continue
    return sorted(_views(found), key=lambda job: (-job.created, job.id))


def _views(found: list[_Files]) -> list[Job]:
    ids = [(files, files.open_ids()) for files in found]
    queue = ask_queue([one for _, some in ids for one in some]) if any(some for _, some in ids) else {}
    for files, some in ids:
        if some:  # what ended while SLURM was asked has ended, and is not lost
            with contextlib.suppress(SpdToolsError):  # a folder that is being removed: what was read before
                files.look()
    _note_elsewhere(found, queue)
    return [_view(files, queue) for files in found]


def _note_elsewhere(found: list[_Files], queue: Mapping[str, Queued] | None) -> None:
    """What SLURM does not know here may be another cluster's; asked only then."""
    unknown: list[tuple[_Files, set[str]]] = []
    for files in found:
        missing = any(said_about(files.job.id, name, queue) is None for name in files.open_ids())
        clusters = {submission.cluster for submission in files.submissions if submission.cluster is not None}
        if queue is not None and missing and clusters:
            unknown.append((files, clusters))
    here = cluster_name() if unknown else None
    if here is not None:
        for files, clusters in unknown:
            files.elsewhere = clusters - {here}


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
        id=files.job.id,
        kind=request.kind,
        subject=request.subject,
        status=status,
        executor=request.executor,
        cluster=files.submissions[-1].cluster if files.submissions else None,
        created=request.created,
        ended=max(ends, default=None) if status not in ACTIVE else None,
        folder=files.job.path,
        request=request.request,
        steps=views,
        error=_error(views, files.submissions),
        result=views[-1].tasks[0].result if status == "finished" and len(views[-1].tasks) == 1 else None,
    )


def _step_view(files: _Files, step: Step, queue: Mapping[str, Queued] | None, parents_ended: bool) -> StepView:
    tasks = tuple(_task_view(files, step, rank, queue, parents_ended) for rank in step.ranks)
    if files.scheduler_lives and step.gpus and all(task.status == "pending" for task in tasks):
        waits = "It waits for a GPU: other jobs use them."
        if all(files.has_finished(name) for name in step.after) and _gpus_in_use(files.job):
            tasks = tuple(task.model_copy(update={"why": task.why or waits}) for task in tasks)
    return StepView(
        name=step.name, kind=step.kind, status=_first(task.status for task in tasks), after=step.after, tasks=tasks
    )


def _gpus_in_use(job: JobFolder) -> bool:
    return any(is_locked(path) for path in gpu_locks(job.path.parent).glob("*.lock"))


def _task_view(
    files: _Files, step: Step, rank: int, queue: Mapping[str, Queued] | None, parents_ended: bool
) -> TaskView:
    known = files.evidence(step, rank)
    state = known.state
    alive = known.here and state is not None and state.status == "running" and lives(files.job.tasks, state)
    status, why = judge(known, alive, queue)
    if parents_ended and status in ("lost", "pending") and (state is None or state.status != "running"):
        before = ", ".join(step.after)
        status, why = "skipped", f"It did not run, as not all of what comes before it ({before}) has finished."
    if state is None:
        return TaskView(rank=rank, status=status, why=why, slurm_id=known.slurm_id)
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
        slurm_id=known.slurm_id or state.slurm_id,
        gpus=state.gpus,
        started=state.started,
        updated=state.updated,
        ended=state.ended,
        result=state.result,
    )


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
