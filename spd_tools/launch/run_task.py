"""The process of a task: its log, its state, its signals, and what it runs.

Under SLURM a task is told to save by USR2 (a time limit, or a preemption where the cluster sends it) or by SIGTERM
(another preemption, or scancel), or by nothing. USR2: it saves, then has itself requeued. SIGTERM: it saves and goes on
until it is killed, as a task that leaves by itself would not be run again. Nothing: it goes on from what it saved last.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal, NoReturn

from spd_tools.errors import SpdToolsError
from spd_tools.launch.folder import JobFolder, JobRequest
from spd_tools.launch.graph import Step
from spd_tools.launch.kinds import TaskContext, TaskStoppedError, find_kind
from spd_tools.launch.machine import hold_gpus
from spd_tools.launch.snapshot import read_snapshot
from spd_tools.launch.state import TakenOverError, TaskFile, read_attempts, read_states
from spd_tools.launch.version import installed_version

REPORT_SECONDS = 2.0
"""Least time between two reports of progress of a task."""
TASKS_PER_SECOND = 8
"""Large steps report less often: their states lie on one file system."""
SAVE_SECONDS = 10.0
"""Left of SLURM's warning time when a task that is still saving is requeued all the same."""
LEAST_SECONDS = 1.0
"""That it may save, however short the warning."""
MAX_IDLE = 5
"""Attempts in a row without any progress after which a task is not requeued again."""
GPUS_VARIABLE = "SPD_TOOLS_TASK_GPUS"
"""CUDA_VISIBLE_DEVICES of a local task; submitit sets that variable itself, to plain numbers only."""

DELAY_VARIABLE = "SPD_TOOLS_SIGNAL_DELAY"
"""Seconds between SLURM's warning and the end."""


def run_task(folder: Path, name: str, rank: int, submission: int) -> None:
    """Do one task of a job and say in its state how that went.

    Raises:
        SystemExit: when it did not finish; SLURM then runs no dependents.
    """
    job = JobFolder(folder)
    _redirect(job.log(name, rank))
    file: TaskFile | None = None
    try:
        request, step = job.request(), job.graph().step(name)
        if not job.is_wanted(name, rank, submission):
            print(f"Nobody waits for this attempt any more: {job.id} was cancelled or retried.", file=sys.stderr)
            raise SystemExit(1)
        _environment(job, request)
        file = TaskFile.begin(job.tasks, name, rank, submission)
        print(_headline(file), file=sys.stderr)
        result = _Attempt(job, request, step, file).run()
        for number in (signal.SIGUSR2, signal.SIGTERM):  # a late one would kill the process while it shuts down
            signal.signal(number, signal.SIG_IGN)
        file.update(status="finished", ended=time.time(), result=result, **_all_done(file))
    except SystemExit:
        raise
    except TakenOverError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except BaseException as error:
        _fail(file, error)
        raise SystemExit(1) from None


class _Attempt:
    """Runs a step's kind once, under the signals of its executor."""

    def __init__(self, job: JobFolder, request: JobRequest, step: Step, file: TaskFile) -> None:
        self._job = job
        self._request = request
        self._step = step
        self._file = file
        self._last_report = -float("inf")
        self._requeue_asked = False
        self._requeue: Callable[[int, FrameType | None], Any] | None = None
        self._idle: Any = None
        self._gpus: list[IO[bytes]] = []

    def run(self) -> dict[str, Any]:
        """What the kind returns."""
        if self._request.executor == "slurm" and not self._step.here:
            self._listen_to_slurm()
        else:
            signal.signal(signal.SIGTERM, lambda _number, _frame: self._leave("stopped"))
            self._gpus = hold_gpus(self._job.path.parent, os.environ.get(GPUS_VARIABLE, ""))
        self._idle = signal.getsignal(signal.SIGTERM)
        if not self._is_wanted():  # cancelled before there was anybody to listen
            self._leave("stopped")
        kind = find_kind(self._step.kind)
        while True:
            try:
                return kind(self._step.arguments, self._context())
            except TaskStoppedError as error:
                self._stopped(error)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _context(self) -> TaskContext:
        return TaskContext(
            job_id=self._job.id,
            step=self._step.name,
            rank=self._file.state.rank,
            n_tasks=self._step.n_tasks,
            report=self._report,
            results=self._results,
        )

    def _results(self, step: str) -> list[dict[str, Any]]:
        states = read_states(self._job.tasks, step)
        results = [state.result for state in states.values() if state.status == "finished" and state.result is not None]
        if len(results) != self._job.graph().step(step).n_tasks:
            raise SpdToolsError(f"Step {step} of {self._job.id} has not finished; `spd-tools jobs retry` it.")
        return results

    def _report(self, done: int, total: int | None, unit: str) -> None:
        least = max(REPORT_SECONDS, self._step.n_tasks / TASKS_PER_SECOND)
        first = self._file.state.done is None
        now = time.monotonic()
        changes: dict[str, Any] = {"done": done, "total": total, "unit": unit}
        if first:
            changes["done_before"] = max(0, done - 1)
        if not first and now - self._last_report < least:
            self._file.remember(**changes)
            return
        self._last_report = now
        try:
            self._file.update(**changes)
        except TakenOverError:
            raise
        except SpdToolsError as error:  # a full disk: the work itself says so when it has to
            print(error, file=sys.stderr)

    # --- signals ------------------------------------------------------------------------------------------------------

    def _listen_to_slurm(self) -> None:
        handler = signal.getsignal(signal.SIGUSR2)
        assert callable(handler), "submitit has installed its own"
        self._requeue = handler
        signal.signal(signal.SIGUSR2, self._on_warning)

    def _on_warning(self, number: int, frame: FrameType | None) -> None:
        """USR2: save, then be requeued."""
        if self._requeue_asked:
            return
        self._requeue_asked = True
        save = signal.getsignal(signal.SIGTERM)
        if save is self._idle or not callable(save):
            self._have_requeued(frame)
        signal.signal(signal.SIGALRM, lambda _number, frame: self._have_requeued(frame))
        signal.setitimer(signal.ITIMER_REAL, max(LEAST_SECONDS, self._warning_seconds() - SAVE_SECONDS))
        assert callable(save)
        save(signal.SIGTERM, frame)

    def _warning_seconds(self) -> float:
        delay = os.environ.get(DELAY_VARIABLE, "")
        return float(delay) if delay else 0.0

    def _have_requeued(self, frame: FrameType | None) -> None:
        """Leaves with SystemExit."""
        if self._gets_nowhere():
            self._leave("failed", f"It got nowhere in {MAX_IDLE} attempts; start it again with more --time.")
        try:
            self._file.update(status="requeued")
        except TakenOverError as error:
            print(error, file=sys.stderr)
            raise SystemExit(1) from None
        except SpdToolsError as error:  # a full disk is no reason not to come back
            print(error, file=sys.stderr)
        assert self._requeue is not None
        self._requeue(signal.SIGUSR2, frame)

    def _gets_nowhere(self) -> bool:
        """Whether none of the last attempts came further than those before them."""
        own = self._file.state
        attempts = read_attempts(self._job.tasks, self._step.name, own.rank)
        same = [state for state in attempts if state.submission == own.submission and state.attempt < own.attempt]
        done = [state.done or 0 for state in (*same, own)]
        return len(done) >= MAX_IDLE and max(done[-MAX_IDLE:]) <= max(done[:-MAX_IDLE], default=0)

    def _is_wanted(self) -> bool:
        return self._job.is_wanted(self._step.name, self._file.state.rank, self._file.state.submission)

    def _stopped(self, error: TaskStoppedError) -> None:
        """What a task does that has saved its work because of a signal: returns when it shall go on."""
        if self._requeue_asked:
            self._have_requeued(None)
        if self._requeue is None or not self._is_wanted():
            self._leave("stopped", str(error))
        print("Saved; going on until SLURM ends this attempt.", file=sys.stderr)

    def _leave(self, status: Literal["stopped", "failed"], sentence: str = "Stopped by a signal.") -> NoReturn:
        """End the process: nothing that catches errors may get in the way, wherever the signal came."""
        print(sentence, file=sys.stderr)
        try:
            self._file.update(status=status, ended=time.time(), error=sentence if status == "failed" else None)
        except SpdToolsError as error:
            print(error, file=sys.stderr)
        raise SystemExit(1)


def _environment(job: JobFolder, request: JobRequest) -> None:
    """What the submitter's process had; set before anything heavy is imported."""
    os.environ["SPD_OUT_DIR"] = str(job.path.parent.parent)
    if GPUS_VARIABLE in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[GPUS_VARIABLE]
    if (cpus := os.environ.get("SLURM_CPUS_PER_TASK")) and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = cpus
    try:
        os.chdir(request.cwd)
    except OSError as error:
        raise SpdToolsError(
            f"{request.cwd}, where {job.id} was started, cannot be entered here ({error.strerror}); start it from a "
            "folder that every node has."
        ) from None
    snapshot = read_snapshot(job.path)
    if snapshot is not None and snapshot.kind == "wheel" and snapshot.version != (found := installed_version()):
        raise SpdToolsError(
            f"{job.id} was submitted with spd-tools {snapshot.version} and this is {found}; install that version, or "
            "submit it again."
        )


def _redirect(path: Path) -> None:
    """Send everything that the process prints to the task's log."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    try:
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        print(f"{path} cannot be written: {error.strerror}", file=sys.stderr)  # submitit's log has it then
        return
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _headline(file: TaskFile) -> str:
    state = file.state
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.started))
    slurm = f", SLURM job {state.slurm_id}" if state.slurm_id else ""
    return f"--- attempt {state.attempt} at {begun} on {state.host}, pid {state.pid}{slurm}"


def _all_done(file: TaskFile) -> dict[str, Any]:
    total = file.state.total
    return {} if total is None else {"done": total}


def _fail(file: TaskFile | None, error: BaseException) -> None:
    if isinstance(error, SpdToolsError):
        print(error, file=sys.stderr)
    else:
        traceback.print_exc()
    if file is None:
        return
    try:
        file.update(status="failed", error=sentence_of(error), ended=time.time())
    except SpdToolsError as problem:  # then the log alone has it
        print(problem, file=sys.stderr)


def sentence_of(error: BaseException) -> str:
    """What went wrong, in one sentence."""
    if isinstance(error, SpdToolsError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'Input or output'}: {error.strerror or error}."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "There is not enough memory; use a smaller batch size or memory budget."
    return f"It stopped with an unexpected {type(error).__name__}; its log has the details."
