"""How far each task is: a state and a lock per attempt, ``tasks/<step>/<rank>-<attempt>.json`` and ``.lock``.

An attempt writes no other attempt's state, so a process that was given up for dead can never spoil its successor's: it
finds a later attempt at its next write and stops. The lock says whether the process lives: the kernel lets go of it
however the process ends, and no process id is ever mistaken for another's.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.files import write_json
from spd_tools.locks import is_locked, take_lock
from spd_tools.store.records import Record

_FILE = re.compile(r"(\d{5})-(\d{6})\.(json|lock)")
_TRIES = 100
_MANY = 16
"""States of a step that readers gather in one file: on a network file system each takes a millisecond to open."""
_QUIET_SECONDS = 60.0
"""Without a change in a step's folder before they do: what comes later has another time, however coarse its clock."""


class TakenOverError(SpdToolsError):
    """Another process has taken over this task."""


class TaskState(Record):
    """What an attempt at a task says about itself."""

    step: str
    rank: int
    attempt: int
    """1, 2, ..."""
    submission: int
    status: Literal["running", "requeued", "stopped", "finished", "failed"]
    """requeued: it has asked SLURM to run it again; stopped: by a signal, after saving what it had."""
    host: str
    pid: int
    slurm_id: str | None = None
    gpus: str | None = None
    """CUDA_VISIBLE_DEVICES."""
    started: float
    """Seconds since the epoch, as are the others."""
    updated: float
    ended: float | None = None
    done: int | None = None
    """Units that are done, those of earlier attempts included; None before the first."""
    total: int | None = None
    unit: str | None = None
    """What done and total count: batches, say."""
    done_before: int | None = None
    """Units that earlier attempts had done."""
    error: str | None = None
    """One sentence, of a failed task."""
    result: dict[str, Any] | None = None
    """What a finished task says to later steps."""


class TaskFile:
    """The state of this process's attempt; the lock is held until the process ends."""

    def __init__(self, folder: Path, state: TaskState, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self.state = state

    @classmethod
    def begin(cls, tasks: Path, step: str, rank: int, submission: int) -> TaskFile:
        """Start a new attempt; earlier ones are thereby taken over.

        Raises:
            SpdToolsError: when the folder cannot be written.
        """
        folder = tasks / step
        try:
            folder.mkdir(parents=True, exist_ok=True)
            attempt, lock = _claim(folder, rank)
        except OSError as error:
            raise SpdToolsError(f"{folder} cannot be written: {error.strerror}; free space there.") from error
        now = time.time()
        state = TaskState(
            step=step,
            rank=rank,
            attempt=attempt,
            submission=submission,
            status="running",
            host=socket.gethostname(),
            pid=os.getpid(),
            slurm_id=_slurm_id(),
            gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
            started=now,
            updated=now,
        )
        file = cls(folder, state, lock)
        file._write()
        return file

    def is_current(self) -> bool:
        """Whether no later attempt has begun."""
        return _latest(self._folder, self.state.rank, "lock") <= self.state.attempt

    def update(self, **changes: Any) -> None:
        """Write the state with some fields changed.

        Raises:
            TakenOverError: when a later attempt has begun.
            SpdToolsError: when the disk is full.
        """
        if not self.is_current():
            raise TakenOverError(
                f"Step {self.state.step}, rank {self.state.rank} was taken over by a later attempt; this one stops."
            )
        self.state = self.state.model_copy(update={"updated": time.time(), **changes})
        self._write()

    def remember(self, **changes: Any) -> None:
        """Change fields that the next update is going to write."""
        self.state = self.state.model_copy(update=changes)

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)

    def _write(self) -> None:
        write_json(_path(self._folder, self.state.rank, self.state.attempt), self.state.model_dump(mode="json"))


def read_states(tasks: Path, step: str) -> dict[int, TaskState]:
    """rank -> state of the latest attempt that has written one.

    Raises:
        SpdToolsError: when a state is damaged.
    """
    latest: dict[int, int] = {}
    for rank, attempt, kind in _files(tasks / step):
        if kind == "json":
            latest[rank] = max(attempt, latest.get(rank, 0))
    return {rank: _read(tasks / step, rank, attempt) for rank, attempt in sorted(latest.items())}


class _Gathered(Record):
    """``tasks/<step>.json``: what a reader found in a folder that nothing has changed in for a while."""

    changed_ns: int
    """Time of the folder's last change; with another one this is out of date."""
    states: tuple[TaskState, ...]


_GATHERED = TypeAdapter(_Gathered)


def look_at_states(tasks: Path, step: str) -> dict[int, TaskState]:
    """As ``read_states``, for whoever only looks: of a large step that nothing happens in, from one file.

    Raises:
        SpdToolsError: when a state is damaged.
    """
    path = tasks / f"{step}.json"
    changed = _changed_ns(tasks / step)
    with contextlib.suppress(OSError, ValidationError):
        gathered = _GATHERED.validate_json(path.read_bytes())
        if gathered.changed_ns == changed:
            return {state.rank: state for state in gathered.states}
    states = read_states(tasks, step)
    quiet = changed is not None and time.time() - changed / 1e9 > _QUIET_SECONDS
    if changed is not None and quiet and len(states) >= _MANY:
        gathered = _Gathered(changed_ns=changed, states=tuple(states.values()))
        with contextlib.suppress(SpdToolsError):  # somebody else's job, or a full disk: it stays slow
            write_json(path, gathered.model_dump(mode="json"))
    return states


def _changed_ns(folder: Path) -> int | None:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


def read_attempts(tasks: Path, step: str, rank: int) -> list[TaskState]:
    """States of all attempts at a task, oldest first."""
    found = sorted(attempt for of, attempt, kind in _files(tasks / step) if of == rank and kind == "json")
    return [_read(tasks / step, rank, attempt) for attempt in found]


def lives(tasks: Path, state: TaskState) -> bool:
    """Whether the process of an attempt lives, as far as locks of its host are seen here."""
    return is_locked(_path(tasks / state.step, state.rank, state.attempt).with_suffix(".lock"))


def _claim(folder: Path, rank: int) -> tuple[int, int]:
    """(number of a new attempt, descriptor of its lock): creating a file exclusively is atomic on every file system."""
    for _ in range(_TRIES):
        attempt = _latest(folder, rank, "lock") + 1
        try:
            lock = os.open(_path(folder, rank, attempt).with_suffix(".lock"), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except FileExistsError:
            continue
        take_lock(lock, folder)
        return attempt, lock
    raise SpdToolsError(f"{folder} has more processes for rank {rank} than there should be; cancel the job.")


def _latest(folder: Path, rank: int, kind: str) -> int:
    return max((attempt for of, attempt, found in _files(folder) if (of, found) == (rank, kind)), default=0)


def _files(folder: Path) -> list[tuple[int, int, str]]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [(int(m[1]), int(m[2]), m[3]) for m in map(_FILE.fullmatch, names) if m]


def _path(folder: Path, rank: int, attempt: int) -> Path:
    return folder / f"{rank:05d}-{attempt:06d}.json"


def _read(folder: Path, rank: int, attempt: int) -> TaskState:
    path = f"{folder}/{rank:05d}-{attempt:06d}.json"  # thousands at a time: a Path would take as long as the reading
    try:
        with open(path, "rb") as file:
            return TaskState.model_validate_json(file.read())
    except (OSError, ValidationError) as error:
        raise SpdToolsError(
            f"{path} cannot be read ({type(error).__name__}); remove it, then `spd-tools jobs retry` its job."
        ) from None


def _slurm_id() -> str | None:
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")
