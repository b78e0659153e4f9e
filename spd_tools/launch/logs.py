"""What the tasks of a job printed: as hostile as data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from spd_tools.errors import SpdToolsError
from spd_tools.launch.folder import JobFolder
from spd_tools.launch.status import ACTIVE, Job, job_status

TAIL_BYTES = 4_000
FOLLOW_SECONDS = 1.0
ASK_SECONDS = {"local": 1.0, "slurm": 15.0}
"""Between two looks at the job: on a cluster each asks its controller, which all its users share."""


def log_path(job: Job, step: str, rank: int) -> Path:
    """The log of a task; where it never got so far as to write one, what SLURM and submitit wrote about it.

    Raises:
        SpdToolsError: when there is no such task, or nobody wrote anything about it yet.
    """
    tasks = job.step(step).tasks
    if not 0 <= rank < len(tasks):
        raise SpdToolsError(f"Step {step} of {job.id} has ranks 0 to {len(tasks) - 1}; there is no rank {rank}.")
    folder = JobFolder(job.folder)
    path = folder.log(step, rank)
    if path.is_file():
        return path
    if (slurm_id := tasks[rank].slurm_id) is not None:
        for name in (f"{slurm_id}_0_log.out", f"{slurm_id}_0_log.err"):
            if (folder.submitit / name).is_file():
                return folder.submitit / name
    raise SpdToolsError(f"Step {step}, rank {rank} of {job.id} has printed nothing yet; it is {tasks[rank].status}.")


def newest_log(job: Job) -> tuple[str, int] | None:
    """(step, rank) of the log to look at first: of what went wrong, else of what was written last; None: no log yet."""
    folder = JobFolder(job.folder)
    found = [
        (step.name, task) for step in job.steps for task in step.tasks if folder.log(step.name, task.rank).is_file()
    ]
    wrong = [(step, task) for step, task in found if task.status in ("failed", "lost")]
    if wrong:
        return wrong[0][0], wrong[0][1].rank
    newest = max(found, key=lambda pair: folder.log(pair[0], pair[1].rank).stat().st_mtime_ns, default=None)
    return None if newest is None else (newest[0], newest[1].rank)


def log_tail(path: Path, n_bytes: int = TAIL_BYTES) -> str:
    """The last bytes of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - n_bytes))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def read_log(path: Path) -> Iterator[str]:
    """A log's lines."""
    with path.open("rb") as file:
        for line in file:
            yield line.decode(errors="replace").rstrip("\n")


def follow_log(job_id: str, step: str, rank: int) -> Iterator[str]:
    """A log's lines as they come, until the task has ended."""
    followed: Path | None = None
    position = 0
    rest = b""
    job, asked = job_status(job_id), time.monotonic()
    while True:
        if time.monotonic() - asked >= ASK_SECONDS[job.executor]:
            job, asked = job_status(job_id), time.monotonic()
        ended = job.step(step).tasks[rank].status not in ACTIVE
        try:
            path = log_path(job, step, rank)
            if path != followed:  # SLURM's and submitit's words come before the task has a log
                followed, position, rest = path, 0, b""
            with path.open("rb") as file:
                file.seek(position)
                rest += file.read()
                position = file.tell()
        except SpdToolsError:
            if ended:
                raise
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
        if ended:
            if rest:
                yield rest.decode(errors="replace")
            return
        time.sleep(FOLLOW_SECONDS)
