"""A job's tasks as processes of this machine: order, number at once, GPUs. One process per job, in no terminal's way.

``python -m spd_tools.launch.scheduler FOLDER SUBMISSION``; not meant to be typed. It holds the job's lock as long as it
lives. If it is killed, its tasks go on: the next scheduler waits for them and starts what is missing. Of a SLURM job it
runs the steps that have to run here, then queues the others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from spd_tools.errors import SpdToolsError
from spd_tools.launch.folder import JobFolder, Submission
from spd_tools.launch.graph import Step
from spd_tools.launch.machine import GpuPool, n_cpus, visible_gpus
from spd_tools.launch.run_task import GPUS_VARIABLE, sentence_of
from spd_tools.launch.state import TaskState, lives, read_attempts, read_states
from spd_tools.launch.task import Task

POLL_SECONDS = 0.1
STOP_SECONDS = 60.0
"""Time that tasks have to save their work after a cancel, before they are killed."""
_FOR_EVER_MINUTES = 10 * 365 * 24 * 60


@dataclass
class _Running:
    """A task's process."""

    step: str
    rank: int
    gpus: tuple[str, ...]
    job: Any
    """submitit's; None of one that an earlier scheduler started."""
    state: TaskState | None = None
    """Of such a one."""
    has_begun: bool = False
    """Whether it has claimed its GPUs itself."""


class Scheduler:
    """Runs the tasks of one submission, in the order of the graph."""

    def __init__(self, job: JobFolder, submission: Submission, gpus: tuple[str, ...]) -> None:
        self._job = job
        self._number = submission.number
        self._graph = job.graph()
        steps = [step for step in self._graph.steps if submission.executor == "local" or step.here]
        self._waiting = {step.name: self._ranks(submission, step) for step in steps}
        self._steps = [step for step in steps if self._waiting[step.name]]
        self._pool = GpuPool(gpus, job.path.parent)
        self._running: list[_Running] = []
        self._stopping: float | None = None
        self._asked_to_stop = False
        self._seen: int | None = None
        self._settled: dict[str, bool] = {}
        for step in steps:
            if step.gpus > len(gpus) > 0:
                raise SpdToolsError(
                    f"A task of step {step.name} needs {step.gpus} GPUs and this machine has {len(gpus)}; lower that."
                )
            self._adopt(step)

    @staticmethod
    def _ranks(submission: Submission, step: Step) -> list[int]:
        return sorted(rank for part in submission.steps if part.step == step.name for rank in part.ranks)

    def _adopt(self, step: Step) -> None:
        """Wait for tasks that an earlier scheduler started and that are still alive."""
        for rank, state in read_states(self._job.tasks, step.name).items():
            if state.status == "running" and lives(self._job.tasks, state):
                self._running.append(_Running(step.name, rank, self._pool.reserve(state.gpus), None, state, True))

    def run(self) -> None:
        """Until nothing is left that can run."""
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for whoever watches
        while True:
            if self._stopping is None and self._is_cancelled():
                self._stopping = time.monotonic()
                self._signal_all(signal.SIGTERM)
            self._collect()
            waits = self._stopping is None and self._start()
            if self._stopping is not None and time.monotonic() - self._stopping > STOP_SECONDS:
                self._signal_all(signal.SIGKILL)
            if not self._running and not waits:
                return
            time.sleep(POLL_SECONDS)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        still: list[_Running] = []
        for task in self._running:
            if self._has_ended(task):
                self._pool.give_back(task.gpus)
                continue
            if not task.has_begun and self._has_begun(task):
                task.has_begun = True
                self._pool.hand_over(task.gpus)
            still.append(task)
        self._running = still

    def _has_begun(self, task: _Running) -> bool:
        attempts = read_attempts(self._job.tasks, task.step, task.rank)
        return bool(attempts) and attempts[-1].status == "running" and attempts[-1].submission == self._number

    def _has_ended(self, task: _Running) -> bool:
        if task.state is None:
            if not task.job.done():
                return False
            # submitit's process between this one and the task may have been killed alone.
            attempts = read_attempts(self._job.tasks, task.step, task.rank)
            if not attempts:
                return True
            task.state = attempts[-1]
        return not lives(self._job.tasks, task.state)

    def _is_cancelled(self) -> bool:
        if self._asked_to_stop:
            self._job.note_cancelled()
            return True
        path = self._job.path / "submissions.json"
        modified = path.stat().st_mtime_ns
        if modified == self._seen:
            return False
        self._seen = modified
        return any(known.number == self._number and known.cancelled for known in self._job.submissions())

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._asked_to_stop = True

    def _signal_all(self, number: signal.Signals) -> None:
        for task in self._running:
            attempts = read_attempts(self._job.tasks, task.step, task.rank)
            if attempts and signal_task(self._job, attempts[-1], number):
                continue
            if task.state is None:  # its process has not come so far yet
                task.job._process.send_signal(number)

    # --- starts -------------------------------------------------------------------------------------------------------

    def _start(self) -> bool:
        """Start what can be; whether something waits for nothing but a GPU."""
        waits = False
        for step in self._steps:
            waiting = self._waiting[step.name]
            while waiting and self._may_start(step):
                gpus = self._pool.take(step.gpus)
                if gpus is None:
                    waits = True
                    break
                self._running.append(self._process(step, waiting.pop(0), gpus))
        return waits

    def _may_start(self, step: Step) -> bool:
        active = sum(task.step == step.name for task in self._running)
        if active >= self._at_once(step):
            return False
        return active > 0 or all(self._finished(self._graph.step(name)) for name in step.after)

    def _finished(self, step: Step) -> bool:
        if self._waiting.get(step.name) or any(task.step == step.name for task in self._running):
            return False
        if step.name not in self._settled:
            self._settled[step.name] = has_finished(self._job, step)
        return self._settled[step.name]

    def _at_once(self, step: Step) -> int:
        """Most tasks of a step that can run at a time."""
        places = len(self._pool.gpus) // step.gpus if step.gpus and self._pool.gpus else step.n_tasks
        return min(places, step.max_concurrent or step.n_tasks, step.n_tasks)

    def _process(self, step: Step, rank: int, gpus: tuple[str, ...]) -> _Running:
        import submitit

        executor = submitit.AutoExecutor(self._job.submitit, cluster="local")
        executor.update_parameters(timeout_min=_FOR_EVER_MINUTES, stderr_to_stdout=True)
        variables = {GPUS_VARIABLE: ",".join(gpus)}
        if "OMP_NUM_THREADS" not in os.environ:
            variables["OMP_NUM_THREADS"] = str(max(1, n_cpus() // self._at_once(step)))
        with _set(variables):
            job = executor.submit(Task(str(self._job.path), step.name, rank, self._number))
        return _Running(step.name, rank, gpus, job)


def signal_task(job: JobFolder, state: TaskState, number: signal.Signals) -> bool:
    """Send a signal to a task's process on this machine, if it is alive; whether it is."""
    if state.status != "running" or not lives(job.tasks, state):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.pid, number)
    return True


@contextlib.contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_submission(job: JobFolder, number: int) -> None:
    """Run what a submission runs here, then queue the rest of it, if it has any.

    Raises:
        SpdToolsError: when something cannot be started or queued.
    """
    submission = next(found for found in job.submissions() if found.number == number)
    Scheduler(job, submission, visible_gpus()).run()
    if submission.executor == "slurm":
        from spd_tools.launch.slurm import queue_submission

        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # seconds; what is queued must not be left without a note of it
        here_done = all(has_finished(job, step) for step in job.graph().steps if step.here)
        if here_done and not _is_cancelled(job, number):
            queue_submission(job, number)


def has_finished(job: JobFolder, step: Step) -> bool:
    """Whether all tasks of a step say so."""
    states = read_states(job.tasks, step.name)
    return all(rank in states and states[rank].status == "finished" for rank in step.ranks)


def _is_cancelled(job: JobFolder, number: int) -> bool:
    return any(known.number == number and known.cancelled for known in job.submissions())


def main() -> int:
    """Returns the exit code."""
    from spd_tools.launch.task import CODE, isolate

    job, number = JobFolder(Path(sys.argv[1])), int(sys.argv[2])
    if (job.path / CODE).is_dir():
        isolate(job.path / CODE)
    try:
        run_submission(job, number)
    except BaseException as error:
        traceback.print_exc()
        job.note_error(number, sentence_of(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
