"""Detached jobs: a process and a folder each, below ``SPD_OUT_DIR/jobs``.

==============  =====================================================================================================
request.json    what to do; written before the process starts
state.json      how far it is; written whole by the job alone, after the process that starts it has made it
log             everything that the job prints
lock            locked by the job's process for as long as it lives: the kernel lets go of it however the process ends,
                on other hosts that share the folder too, and no process id is ever mistaken for another's
==============  =====================================================================================================
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.files import write_json
from spd_tools.settings import Settings
from spd_tools.store.records import Record

if TYPE_CHECKING:
    from spd_tools.harvest import HarvestRequest

REQUEST, STATE, LOG, LOCK = "request.json", "state.json", "log", "lock"
_JOB_ID = re.compile(r"harvest-[0-9a-f]{12}")
_TAIL_BYTES = 4_000

Status = Literal["pending", "running", "finished", "failed"]


class JobState(Record):
    """state.json."""

    id: str
    status: Status
    """pending: the process has been started and has not said anything yet."""
    pid: int | None = None
    created: float
    """Seconds since the epoch, as are the others."""
    started: float | None = None
    ended: float | None = None
    batches_done: int | None = None
    """Batches that have been counted, those before an interruption included; None before the first."""
    batches_total: int | None = None
    """Batches of the harvest; None before its plan is made."""
    n_tokens: int | None = None
    """Tokens that a finished harvest counted."""
    error: str | None = None
    """One sentence, of a failed job."""
    run_id: str | None = None
    harvest_id: str | None = None
    """What was harvested, of a finished job."""


class Job(Record):
    """A job as it stands."""

    state: JobState
    status: Literal["pending", "running", "finished", "failed", "died"]
    """As its state says; died: it says pending or running, and its process is gone."""
    folder: Path
    request: dict[str, Any]
    log_tail: str
    """The last few thousand bytes of what it printed: as hostile as data."""


def start_harvest(request: HarvestRequest) -> Job:
    """Start a harvest in a process of its own, which survives this one.

    It goes on from whatever an interrupted harvest of the same request has saved. A request that is being worked on
    already is not started again: its job is returned.

    Raises:
        SpdToolsError: when no folder can be made or no process started.
    """
    document = json.loads(json.dumps(dataclasses.asdict(request)))
    for job in list_jobs():
        if job.status in ("pending", "running") and job.request == document:
            return job
    folder = Settings.from_environment().jobs_dir / f"harvest-{secrets.token_hex(6)}"
    try:
        folder.mkdir(parents=True)
        with (folder / LOCK).open("wb") as lock, (folder / LOG).open("wb") as log:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_json(folder / REQUEST, document)
            write_state(folder, JobState(id=folder.name, status="pending", created=time.time()))
            process = subprocess.Popen(
                [sys.executable, "-m", "spd_tools.launch.harvest_job", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock.fileno()],  # the lock is the child's from its first moment on
            )
    except OSError as error:
        raise SpdToolsError(
            f"No job could be started in {folder}: {error.strerror}; free space or choose another SPD_OUT_DIR."
        ) from error
    # Somebody has to take note of the end of a child, or its entry stays in the process table.
    threading.Thread(target=process.wait, daemon=True).start()
    return job_status(folder.name)


def job_status(job_id: str) -> Job:
    """How far a job is.

    Raises:
        SpdToolsError: for an unknown job, or one whose files are damaged.
    """
    root = Settings.from_environment().jobs_dir
    folder = root / job_id if _JOB_ID.fullmatch(job_id) else None
    if folder is None or not folder.is_dir():
        known = ", ".join(path.name for path in _folders(root)[:5]) or "none yet"
        raise SpdToolsError(f"There is no job {job_id!r}; the newest ones: {known}.")
    return _read(folder)


def list_jobs() -> list[Job]:
    """All readable jobs, newest first."""
    jobs: list[Job] = []
    for folder in _folders(Settings.from_environment().jobs_dir):
        try:
            jobs.append(_read(folder))
        except SpdToolsError:  # a damaged one must not hide the others; asked for by name it says what is wrong
            continue
    return sorted(jobs, key=lambda job: (-job.state.created, job.state.id))


def read_request(folder: Path) -> dict[str, Any]:
    """What a job has to do.

    Raises:
        SpdToolsError: when request.json is missing or damaged.
    """
    try:
        document = json.loads((folder / REQUEST).read_bytes())
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise SpdToolsError(f"{folder / REQUEST} cannot be read ({error}); start the job again.") from None
    return document


def read_state(folder: Path) -> JobState:
    """state.json.

    Raises:
        SpdToolsError: when it is missing or damaged.
    """
    try:
        return JobState.model_validate_json((folder / STATE).read_bytes())
    except (OSError, ValidationError) as error:
        raise SpdToolsError(
            f"{folder / STATE} cannot be read ({type(error).__name__}); remove the folder and start the job again."
        ) from None


def write_state(folder: Path, state: JobState) -> None:
    """Replace state.json."""
    write_json(folder / STATE, state.model_dump(mode="json"))


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if _JOB_ID.fullmatch(path.name) and (path / STATE).is_file()]
    return sorted(found, key=lambda path: (-path.stat().st_mtime, path.name))


def _read(folder: Path) -> Job:
    # In this order: a job that ends in between is seen as ended, not as dead.
    alive = _alive(folder)
    state = read_state(folder)
    status = "died" if state.status in ("pending", "running") and not alive else state.status
    return Job(state=state, status=status, folder=folder, request=read_request(folder), log_tail=_tail(folder / LOG))


def _alive(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
