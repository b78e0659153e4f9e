"""SLURM: queue tasks, ask what became of them, cancel them. sacct is never needed: many clusters do not have it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from spd_tools.errors import SpdToolsError
from spd_tools.launch.folder import JobFolder, Submission, latest_submission
from spd_tools.launch.graph import Step
from spd_tools.launch.profiles import SlurmProfile
from spd_tools.launch.run_task import DELAY_VARIABLE
from spd_tools.launch.snapshot import read_snapshot
from spd_tools.launch.state import read_states
from spd_tools.launch.task import Task

NEVER = 1_000_000
"""Time-outs after which submitit would give a task up; whether it gets anywhere is for the task itself to tell."""
_ANSWER_SECONDS = 60
_IDS_AT_ONCE = 500
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER")
"""Where the cluster is: no matter of a job, although submitit's clean_env takes them for one."""
_CLUSTER = re.compile(r"^ClusterName\s*=\s*([A-Za-z0-9_.-]+)\s*$", re.MULTILINE)
_LIVE = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"),
    *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"),
}
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}


@dataclass(frozen=True)
class Queued:
    """What SLURM says about a task."""

    state: str
    """PENDING, RUNNING, TIMEOUT, ..."""
    reason: str
    name: str
    """Of the job that it belongs to: what tells it from another one that was given the same number."""

    @property
    def is_live(self) -> bool:
        """Whether it is going to run, or runs."""
        return self.state in _LIVE

    @property
    def is_waiting(self) -> bool:
        """Whether it has not been started (again)."""
        return self.state in _WAITING


def check_slurm() -> None:
    """See that jobs can be submitted from here.

    Raises:
        SpdToolsError: when there is no SLURM.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise SpdToolsError("There is no sbatch here; log in to the cluster, or run without --slurm.")


def cluster_name() -> str | None:
    """SLURM's name of the cluster that is asked from here; None where it does not say."""
    try:
        done = _run(["scontrol", "show", "config"])
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _CLUSTER.search(done.stdout) if done.returncode == 0 else None
    return None if found is None else found[1]


def check_cluster(job: JobFolder) -> None:
    """See that what is queued of a job is queued where this machine can reach it.

    Raises:
        SpdToolsError: when it was submitted to another cluster that shares the file system.
    """
    named = job.submissions()[-1].cluster  # while anything of it is open, it is submitted nowhere else
    here = None if named is None else cluster_name()
    if here not in (None, named):
        raise SpdToolsError(
            f"{job.id} was submitted to cluster {named}, and this machine belongs to {here}; do that on a login node "
            f"of {named}."
        )


def queue_submission(job: JobFolder, number: int) -> None:
    """Submit the steps of a submission, every one together with what it waits for.

    A step depends on its parents' tasks by ``afterok`` and is cancelled by SLURM when one of them fails for good.

    Raises:
        SpdToolsError: when SLURM refuses one; what was queued already is cancelled.
    """
    submission = next(found for found in job.submissions() if found.number == number)
    graph = job.graph()
    try:
        for part in submission.steps:
            step = graph.step(part.step)
            if step.here:
                continue
            ids = _queue(job, step, part.ranks, number, _dependency(job, step))
            job.note_ids(number, step.name, ids)
            if not job.is_wanted(step.name, part.ranks[0], number):  # cancelled meanwhile
                return cancel_submission(job, submission)
    except BaseException as error:  # Ctrl-C, too, must not leave half of a graph in the queue
        sentence = _refusal(error)
        try:
            cancel_submission(job, submission)
        except SpdToolsError as problem:
            sentence = f"{sentence} {problem}"
        job.note_error(number, sentence)
        if not isinstance(error, Exception):
            raise
        raise SpdToolsError(sentence) from error


def cancel_submission(job: JobFolder, submission: Submission) -> None:
    """Cancel all that was submitted at once, by name: ids that were never noted are not forgotten then.

    Raises:
        SpdToolsError: when SLURM cannot be asked.
    """
    for part in submission.steps:
        if not job.graph().step(part.step).here:
            _scancel([f"--name={_full_name(job, part.step, submission.number)}"])


def _queue(job: JobFolder, step: Step, ranks: tuple[int, ...], number: int, dependency: str | None) -> dict[int, str]:
    import submitit

    profile = _profile(job)
    snapshot = read_snapshot(job.path)
    assert snapshot is not None, "taken when the job was made"
    executor = submitit.AutoExecutor(job.submitit, cluster="slurm", slurm_max_num_timeout=NEVER)

    def parameters(environment: dict[str, str]) -> dict[str, object]:
        return profile.submitit_parameters(
            gpus=step.gpus,
            name=_name(job, step.name, number),
            max_concurrent=step.max_concurrent or step.n_tasks,
            dependency=dependency,
            environment=environment,
        )

    delay = parameters({})["slurm_signal_delay_s"]
    executor.update_parameters(**parameters(snapshot.environment() | {DELAY_VARIABLE: str(delay)}))
    with _outside_of_jobs():
        jobs = executor.submit_array([Task(str(job.path), step.name, rank, number) for rank in ranks])
    return {rank: queued.job_id for rank, queued in zip(ranks, jobs, strict=True)}


def _profile(job: JobFolder) -> SlurmProfile:
    return SlurmProfile.model_validate(job.request().profile or {})


def _name(job: JobFolder, step: str, number: int) -> str:
    """No two submissions have the same: what is still running of an earlier one is not meant by it."""
    return f"{job.id}-{step}" if number == 1 else f"{job.id}-{step}-{number}"


def _full_name(job: JobFolder, step: str, number: int) -> object:
    return _profile(job).submitit_parameters(gpus=0, name=_name(job, step, number))["name"]


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Inside a job its variables would speak for the new one; elsewhere SBATCH_ACCOUNT and the like are the user's."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield


def _dependency(job: JobFolder, step: Step) -> str | None:
    """afterok of all tasks that the step waits for. One that has finished is left out: SLURM may have forgotten it."""
    submissions = job.submissions()
    needed: list[str] = []
    for name in step.after:
        states = read_states(job.tasks, name)
        parent = job.graph().step(name)
        open_ranks = [r for r in parent.ranks if r not in states or states[r].status != "finished"]
        needed += _as_arrays(submissions, name, open_ranks)
    return f"afterok:{':'.join(needed)}" if needed else None


def _as_arrays(submissions: tuple[Submission, ...], step: str, ranks: list[int]) -> list[str]:
    """SLURM's ids of tasks; the id of an array for all of its elements."""
    by_number: dict[int, list[int]] = {}
    for rank in ranks:
        latest = latest_submission(submissions, step, rank)
        assert latest is not None, f"rank {rank} of {step} was never submitted"
        by_number.setdefault(latest.number, []).append(rank)
    found: list[str] = []
    for number, chosen in by_number.items():
        part = next(known for known in submissions if known.number == number).of(step, chosen[0])
        assert part is not None
        whole = set(chosen) == set(part.ranks)
        found += [part.ids[chosen[0]].split("_")[0]] if whole else [part.ids[rank] for rank in chosen]
    return found


def _refusal(error: BaseException) -> str:
    if isinstance(error, SpdToolsError):
        return str(error)
    if not isinstance(error, Exception):
        return "It was interrupted while it was being queued."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line.lower()), lines[0] if lines else type(error).__name__)
    said = said.removeprefix("sbatch: error: ")
    return f"SLURM did not take the job ({said}); change the profile or its flags, or try later."


def ask_queue(ids: Iterable[str]) -> dict[str, Queued] | None:
    """What SLURM knows about tasks, recently ended ones included; None where it cannot be asked."""
    arrays = sorted({name.split("_")[0] for name in ids}, key=int)
    found: dict[str, Queued] = {}
    for start in range(0, len(arrays), _IDS_AT_ONCE):
        answer = _ask(arrays[start : start + _IDS_AT_ONCE])
        if answer is None:
            return None
        found |= answer
    return found


def _ask(arrays: list[str]) -> dict[str, Queued] | None:
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%j|%r", f"--jobs={','.join(arrays)}"]
    # SQUEUE_PARTITION, SQUEUE_USERS and the like are filters for what people look at.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        done = _run(command, environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        return None
    lines = (line.strip().split("|", 3) for line in done.stdout.splitlines())
    return {line[0]: Queued(state=line[1], name=line[2], reason=line[3]) for line in lines if len(line) == 4}


def _run(command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_ANSWER_SECONDS,
        check=False,
    )


def cancel(ids: Iterable[str]) -> None:
    """Cancel tasks, queued or running; an array element by its ARRAY_INDEX. Those that have ended are no error.

    Raises:
        SpdToolsError: when SLURM cannot be asked.
    """
    wanted = sorted(set(ids))
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        _scancel(wanted[start : start + _IDS_AT_ONCE])


def _scancel(arguments: list[str]) -> None:
    # SCANCEL_STATE and the like would leave tasks out, SCANCEL_INTERACTIVE would ask.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCANCEL_")}
    try:
        done = _run(["scancel", *arguments], environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no answer in {_ANSWER_SECONDS} s"
        raise SpdToolsError(f"scancel cannot be run here ({reason}); cancel the job again, on a login node.") from None
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise SpdToolsError(f"SLURM did not cancel the job ({said}); cancel it again.")
