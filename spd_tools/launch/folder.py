"""A job's folder, ``SPD_OUT_DIR/jobs/<kind>-<12 hex>``: everything that anybody, on any host, knows about the job.

================  ===================================================================================================
request.json      what the user asked for, from where, for which executor; written once
graph.json        the steps; written once
code/             the code that the job runs, and snapshot.json about it (``snapshot``); not of local jobs
submissions.json  who submitted which tasks when, and under which ids; grows with every retry
tasks/            a state and a lock per attempt of every task (``state``)
logs/             what every task printed
submitit/         submitit's own files, for nobody else to read: pickles are only read by the process they start
lock              locked by the job's scheduler on this host for as long as it lives
*.lock            of whoever changes something at the moment
================  ===================================================================================================
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, StringConstraints, TypeAdapter, ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.files import write_json
from spd_tools.launch.graph import Graph
from spd_tools.locks import is_locked, locked
from spd_tools.settings import Settings
from spd_tools.store.records import Record

Executor = Literal["local", "slurm"]
JOB_ID = re.compile(r"[a-z][a-z-]{0,30}-[0-9a-f]{12}")
SLURM_ID = re.compile(r"[0-9]{1,12}(_[0-9]{1,9})?")
SlurmId = Annotated[str, StringConstraints(pattern=rf"^{SLURM_ID.pattern}$")]
"""Becomes an argument of squeue and scancel: it has to be nothing but an id."""
_Model = TypeVar("_Model", bound=BaseModel)


class JobRequest(Record):
    """request.json."""

    id: str
    kind: str
    """First part of the id: harvest, say."""
    subject: str
    """What the job is about, for lists: a run's reference."""
    request: dict[str, Any]
    """What the user asked for."""
    executor: Executor
    profile: dict[str, Any] | None = None
    """SLURM profile with the flags on top."""
    cwd: str
    """Where relative paths of the request start."""
    created: float
    """Seconds since the epoch."""
    version: str
    """Of spd-tools, when it was submitted."""


class StepSubmission(Record):
    """Tasks of one step that were submitted together."""

    step: str
    ranks: tuple[int, ...]
    ids: dict[int, SlurmId] = Field(default_factory=dict)
    """rank -> SLURM's id of its task ("123_4", or "123" of a single one); empty until it is queued, and locally."""


class Submission(Record):
    """What was submitted at once: the whole graph, or what a retry does again."""

    number: int
    executor: Executor
    host: str
    created: float
    steps: tuple[StepSubmission, ...]
    cluster: str | None = None
    """SLURM's name of the cluster; None: not known, or none."""
    cancelled: float | None = None
    error: str | None = None
    """Why not everything in it could be queued."""

    def of(self, step: str, rank: int) -> StepSubmission | None:
        """The part that has a task."""
        return next((part for part in self.steps if part.step == step and rank in part.ranks), None)


_SUBMISSIONS = TypeAdapter(tuple[Submission, ...])


class JobFolder:
    """Reads and writes a job's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, request: JobRequest, graph: Graph) -> JobFolder:
        """Make the folder of a new job.

        Raises:
            SpdToolsError: when it cannot be made.
        """
        job = cls(jobs_dir() / request.id)
        try:
            job.path.mkdir(parents=True)
            job.logs.mkdir()
            job.tasks.mkdir()
            job.submitit.mkdir(mode=0o700)
            (job.path / "lock").touch()
        except OSError as error:
            raise SpdToolsError(
                f"No job could be made in {job.path}: {error.strerror}; free space or choose another SPD_OUT_DIR."
            ) from error
        try:
            write_json(job.path / "graph.json", graph.model_dump(mode="json"))
            write_json(job.path / "request.json", request.model_dump(mode="json"))
        except BaseException:
            job.remove()
            raise
        return job

    @classmethod
    def find(cls, job_id: str) -> JobFolder:
        """The folder of a job.

        Raises:
            SpdToolsError: when there is none.
        """
        root = jobs_dir()
        path = root / job_id if JOB_ID.fullmatch(job_id) else None
        if path is None or not path.is_dir():
            known = ", ".join(job.id for job in cls.all()[:5]) or "none yet"
            raise SpdToolsError(f"There is no job {job_id!r}; the newest ones: {known}.")
        return cls(path)

    @classmethod
    def all(cls) -> list[JobFolder]:
        """Every job's folder, newest first."""
        root = jobs_dir()
        if not root.is_dir():
            return []
        made: list[tuple[int, str]] = []
        for name in filter(JOB_ID.fullmatch, os.listdir(root)):
            with contextlib.suppress(OSError):  # being made, or removed at this moment
                # request.json is written once, when the job is made.
                made.append((-os.stat(root / name / "request.json").st_mtime_ns, name))
        return [cls(root / name) for _, name in sorted(made)]

    @property
    def id(self) -> str:
        """The job's id."""
        return self.path.name

    @property
    def tasks(self) -> Path:
        """States of the tasks, a folder per step."""
        return self.path / "tasks"

    @property
    def logs(self) -> Path:
        """What the tasks printed."""
        return self.path / "logs"

    @property
    def submitit(self) -> Path:
        """submitit's own folder."""
        return self.path / "submitit"

    @property
    def scheduler_log(self) -> Path:
        """What the scheduler on this host printed."""
        return self.logs / "scheduler.log"

    def log(self, step: str, rank: int) -> Path:
        """What a task printed, all attempts one after the other."""
        return self.logs / f"{step}-{rank:05d}.log"

    def request(self) -> JobRequest:
        """request.json.

        Raises:
            SpdToolsError: when it is missing or damaged.
        """
        return self._read("request.json", JobRequest)

    def graph(self) -> Graph:
        """graph.json.

        Raises:
            SpdToolsError: when it is missing or damaged.
        """
        return self._read("graph.json", Graph)

    def submissions(self) -> tuple[Submission, ...]:
        """submissions.json, oldest first.

        Raises:
            SpdToolsError: when it is damaged.
        """
        path = self.path / "submissions.json"
        try:
            return _SUBMISSIONS.validate_json(path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError) as error:
            raise self._damaged(path, error) from None

    def submit(self, executor: Executor, ranks: dict[str, tuple[int, ...]], cluster: str | None = None) -> Submission:
        """Note that these tasks are going to be submitted, and to which cluster."""
        steps = tuple(StepSubmission(step=step, ranks=chosen) for step, chosen in ranks.items() if chosen)

        def add(known: tuple[Submission, ...]) -> tuple[Submission, ...]:
            new = Submission(
                number=len(known) + 1,
                executor=executor,
                host=socket.gethostname(),
                created=time.time(),
                steps=steps,
                cluster=cluster,
            )
            return (*known, new)

        return self._change(add)[-1]

    def note_ids(self, number: int, step: str, ids: dict[int, str]) -> None:
        """Note under which ids the tasks of a step were queued."""

        def note(submission: Submission) -> Submission:
            parts = [p.model_copy(update={"ids": ids}) if p.step == step else p for p in submission.steps]
            return submission.model_copy(update={"steps": tuple(parts)})

        self._change_one(number, note)

    def note_error(self, number: int, sentence: str) -> None:
        """Note why not everything could be queued."""
        self._change_one(number, lambda submission: submission.model_copy(update={"error": sentence}))

    def note_cancelled(self) -> None:
        """Note that nothing submitted so far shall go on."""
        now = time.time()
        self._change(lambda known: tuple(s if s.cancelled else s.model_copy(update={"cancelled": now}) for s in known))

    def is_wanted(self, step: str, rank: int, number: int) -> bool:
        """Whether a task that was submitted under ``number`` shall still be done by that submission."""
        submissions = self.submissions()
        if number > len(submissions):  # a network file system shows this node an earlier state
            return True
        latest = latest_submission(submissions, step, rank)
        return latest is not None and latest.number == number and latest.cancelled is None

    def scheduler_lives(self) -> bool:
        """Whether the job's scheduler is running."""
        return is_locked(self.path / "lock")

    def remove(self) -> None:
        """Remove a job that never started."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _change_one(self, number: int, change: Callable[[Submission], Submission]) -> None:
        self._change(lambda known: tuple(change(s) if s.number == number else s for s in known))

    def _change(self, change: Callable[[tuple[Submission, ...]], tuple[Submission, ...]]) -> tuple[Submission, ...]:
        with locked(self.path / "submissions.lock"):
            changed = change(self.submissions())
            write_json(self.path / "submissions.json", _SUBMISSIONS.dump_python(changed, mode="json"))
        return changed

    def _read(self, name: str, model: type[_Model]) -> _Model:
        path = self.path / name
        try:
            return model.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise self._damaged(path, error) from None

    def _damaged(self, path: Path, error: Exception) -> SpdToolsError:
        return SpdToolsError(
            f"{path} cannot be read ({type(error).__name__}); remove the folder and start the job again."
        )


def latest_submission(submissions: tuple[Submission, ...], step: str, rank: int) -> Submission | None:
    """The last submission that has a task."""
    return next((found for found in reversed(submissions) if found.of(step, rank)), None)


def new_id(kind: str) -> str:
    """An id for a new job."""
    return f"{kind}-{secrets.token_hex(6)}"


def jobs_dir() -> Path:
    """Where jobs have their folders."""
    return Settings.from_environment().jobs_dir.absolute()


def plain(document: Any) -> Any:
    """What a document is after it has been through JSON, for comparisons."""
    return json.loads(json.dumps(document))


def here() -> str:
    """The working directory.

    Raises:
        SpdToolsError: when it has been removed.
    """
    try:
        return os.getcwd()
    except OSError:
        raise SpdToolsError("The working directory is gone; change to another one.") from None
