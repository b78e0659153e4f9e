"""Watch a job that runs on this machine until it ends; Ctrl-C cancels it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spd_tools.cli.output import note
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.launch.status import Job

LOOK_SECONDS = 0.5


def watch(job: Job, until: Callable[[Job], bool] | None = None) -> Job:
    """Show how a job gets on, on a terminal rank by rank, until it has ended or ``until`` says so.

    Raises:
        SpdToolsError: when the job ends without having finished: what went wrong, and what to do.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the job is cancelled.
    """
    from spd_tools.launch.status import ACTIVE, job_status

    try:
        with _interrupted_by_sigterm(), _display() as show:
            while job.status in ACTIVE and not (until is not None and until(job)):
                show(job)
                time.sleep(LOOK_SECONDS)
                job = job_status(job.id)
    except KeyboardInterrupt:
        _cancel(job)
        raise
    if job.status not in (*ACTIVE, "finished"):
        raise SpdToolsError(ended_badly(job))
    return job


def is_queued(job: Job) -> bool:
    """Whether SLURM has all that runs there."""
    return all(task.slurm_id for step in job.steps[-1:] for task in step.tasks)


def ended_badly(job: Job) -> str:
    """A sentence about a job that has not finished."""
    if job.status == "cancelled":
        return f"{job.id} was cancelled; what it had done is saved, and `spd-tools jobs retry {job.id}` goes on."
    why = (job.error or job.status).rstrip(".")
    more = f"`spd-tools jobs logs {job.id}` says more, `spd-tools jobs retry {job.id}` goes on"
    return f"{job.id} did not finish: {why}; {more}."


def _cancel(job: Job) -> None:
    from spd_tools.launch.control import cancel_job
    from spd_tools.launch.status import ACTIVE, job_status

    note(f"Cancelling {job.id}; its workers save what they have …")
    try:
        job = cancel_job(job.id)
        while job.status in ACTIVE:
            time.sleep(LOOK_SECONDS)
            job = job_status(job.id)
    except SpdToolsError as error:  # it has ended in the meantime
        note(str(error))
        return
    note(ended_badly(job))


@contextmanager
def _display() -> Iterator[Callable[[Job], None]]:
    if not sys.stderr.isatty():
        yield lambda job: None
        return
    from rich.console import Console
    from rich.live import Live

    from spd_tools.render.jobs import watch_page

    with Live(console=Console(stderr=True, markup=False, emoji=False), transient=True, auto_refresh=False) as live:
        yield lambda job: live.update(watch_page(job), refresh=True)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
