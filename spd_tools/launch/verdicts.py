"""What a task is, by what it said, what was submitted and what SLURM knows: pure functions of these."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spd_tools.launch.folder import SLURM_ID, Submission
from spd_tools.launch.slurm import Queued
from spd_tools.launch.state import TaskState

Status = Literal["pending", "running", "finished", "failed", "lost", "cancelled", "skipped"]
Verdict = tuple[Status, str | None]
"""A status, and a sentence about it."""
Queue = Mapping[str, Queued]
"""SLURM's id of a task -> what SLURM says about it."""

_SUBMITTING_SECONDS = 120.0
"""A submission without a scheduler takes seconds; whoever looks from another host cannot see it."""


@dataclass(frozen=True)
class Evidence:
    """What is known about a task."""

    job_id: str
    here: bool
    """Whether a process of ours starts it, not SLURM."""
    state: TaskState | None
    """What its last attempt says about itself."""
    submission: Submission | None
    """The last one that has it."""
    queued_as: str | None
    """SLURM's id by that submission."""
    scheduler_lives: bool
    elsewhere: str | None = None
    """The cluster that has it, where that is another one than is asked from here."""

    @property
    def latest(self) -> TaskState | None:
        """The state, if it is of the last submission: what an attempt of an earlier one said is history."""
        if self.state is None or self.submission is None or self.state.submission != self.submission.number:
            return None
        return self.state

    @property
    def slurm_id(self) -> str | None:
        """SLURM's id of it; by its own account where its submitter was killed before noting it."""
        if self.queued_as is not None or self.here or self.latest is None:
            return self.queued_as
        said = self.latest.slurm_id
        return said if said is not None and SLURM_ID.fullmatch(said) else None


def judge(known: Evidence, lives: bool, queue: Queue | None) -> Verdict:
    """A task's status, apart from what the steps before it do to it.

    Args:
        known: about the task.
        lives: whether its process holds its lock, as far as is seen here.
        queue: SLURM's answer; None: there was none.
    """
    if known.state is not None and known.state.status == "finished":
        return "finished", None
    if known.submission is None:
        return "lost", "It was never submitted."
    if known.latest is not None and known.latest.status == "failed":
        return "failed", known.latest.error
    if known.here:
        return _judge_local(known, known.submission, lives)
    if known.slurm_id is None:
        return _judge_unqueued(known, known.submission)
    return _judge_slurm(known, known.submission, known.slurm_id, queue)


def _judge_local(known: Evidence, submission: Submission, lives: bool) -> Verdict:
    if known.state is not None and known.state.status == "running" and lives:
        return "running", "It is being stopped." if submission.cancelled else None
    if submission.cancelled is not None:
        return "cancelled", None
    latest = known.latest
    if latest is not None and latest.status == "stopped":
        return "cancelled", "It was stopped by a signal; what it had done is saved."
    if latest is not None and latest.status == "running":
        where = "" if latest.host == socket.gethostname() else f" (it ran on {latest.host}, and this is another host)"
        return (
            "lost",
            f"Its process is gone without a word{where}: killed, out of memory, or without room on the disk to say so; "
            "what it had saved is not lost.",
        )
    if known.scheduler_lives:
        return "pending", None
    return "lost", submission.error or "The process that would have started it is gone."


def _judge_unqueued(known: Evidence, submission: Submission) -> Verdict:
    if submission.cancelled is not None:
        return "cancelled", None
    if submission.error is not None:
        return "lost", submission.error
    if known.scheduler_lives or abs(time.time() - submission.created) < _SUBMITTING_SECONDS:
        return "pending", "It has not been queued yet."
    return "lost", "It was never queued: the process that would have submitted it is gone."


def _judge_slurm(known: Evidence, submission: Submission, slurm_id: str, queue: Queue | None) -> Verdict:
    begun = known.latest is not None
    runs = known.latest is not None and known.latest.status == "running"
    silent = queue is None or known.elsewhere is not None
    if silent and (submission.cancelled is None or runs):
        who = "squeue does not answer here" if known.elsewhere is None else f"Only cluster {known.elsewhere} knows"
        return "running" if runs else "pending", f"{who}; this is what the task itself said last."
    said = said_about(known.job_id, slurm_id, queue)
    if submission.cancelled is not None:
        return _judge_cancelled(said)
    if said is None:
        return (
            "lost",
            submission.error or f"SLURM does not know job {slurm_id} any more, and it never said how it ended.",
        )
    if said.state == "COMPLETED":  # only a task that has said so ends without an error
        return "running", "SLURM says that it has completed; its own word has not arrived here yet."
    if not said.is_live:
        return "lost", submission.error or f"SLURM ended job {slurm_id} ({said.state}) before it could say why."
    if said.is_waiting:
        return "pending", f"SLURM: {'requeued, ' if begun else ''}{said.reason}."
    return "running", None


def said_about(job_id: str, slurm_id: str, queue: Queue | None) -> Queued | None:
    """What SLURM says about a job's task; None: nothing."""
    said = (queue or {}).get(slurm_id)
    # Another name: another cluster's job, or one that is so much later that it was given the same number again.
    return said if said is not None and said.name.startswith(job_id) else None


def _judge_cancelled(said: Queued | None) -> Verdict:
    if said is None or not said.is_live:
        return "cancelled", None
    return (
        "pending" if said.is_waiting else "running",
        f"It was cancelled, and SLURM still has it ({said.state}); if that lasts, cancel the job again.",
    )
