"""SLURM: queue tasks, ask what became of them, cancel them. sacct is never needed: many clusters do not have it."""

from __future__ import annotations

import os
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


def queue_submission(job: JobFolder, number: int) -> None:
    """Submit the steps of a submission, every one together with what it waits for.

    A step depends on its parents' tasks by ``afterok`` and is cancelled by SLURM when one of them fails for good.

    Raises:
        SpdToolsError: when SLURM refuses one; what was queued already is cancelled.
    """
    submission = next(found for found in job.submissions() if found.number == number)
    graph, queued = job.graph(), list[str]()
    try:
        for part in submission.steps:
            step = graph.step(part.step)
            if step.here:
                continue
            ids = _queue(job, step, part.ranks, number, _dependency(job, step))
            queued += ids.values()
            job.note_ids(number, step.name, ids)
            if not job.is_wanted(step.name, part.ranks[0], number):  # cancelled meanwhile
                cancel(queued)
                return
    except Exception as error:
        cancel(queued)
        sentence = _refusal(error)
        job.note_error(number, sentence)
        raise SpdToolsError(sentence) from error


def _queue(job: JobFolder, step: Step, ranks: tuple[int, ...], number: int, dependency: str | None) -> dict[int, str]:
    import submitit

    profile = SlurmProfile.model_validate(job.request().profile or {})
    snapshot = read_snapshot(job.path)
    assert snapshot is not None, "taken when the job was made"
    executor = submitit.AutoExecutor(job.submitit, cluster="slurm", slurm_max_num_timeout=NEVER)

    def parameters(environment: dict[str, str]) -> dict[str, object]:
        return profile.submitit_parameters(
            gpus=step.gpus,
            name=f"{job.id}-{step.name}",
            max_concurrent=step.max_concurrent or step.n_tasks,
            dependency=dependency,
            environment=environment,
        )

    delay = parameters({})["slurm_signal_delay_s"]
    executor.update_parameters(**parameters(snapshot.environment() | {DELAY_VARIABLE: str(delay)}))
    with _outside_of_jobs():
        jobs = executor.submit_array([Task(str(job.path), step.name, rank, number) for rank in ranks])
    return {rank: queued.job_id for rank, queued in zip(ranks, jobs, strict=True)}


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


def _refusal(error: Exception) -> str:
    if isinstance(error, SpdToolsError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line.lower()), lines[0] if lines else type(error).__name__)
    return f"SLURM did not take the job ({said.removeprefix('sbatch: error: ')}); change the profile or its flags."


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
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(arrays)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        return None
    lines = (line.strip().split("|") for line in done.stdout.splitlines())
    return {line[0]: Queued(state=line[1], reason=line[2]) for line in lines if len(line) == 3}


def cancel(ids: Iterable[str]) -> None:
    """Cancel tasks, queued or running; an array element by its ARRAY_INDEX. Those that have ended are no error.

    Raises:
        SpdToolsError: when SLURM cannot be asked.
    """
    wanted = sorted(set(ids))
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        try:
            done = subprocess.run(
                ["scancel", *wanted[start : start + _IDS_AT_ONCE]],
                capture_output=True,
                text=True,
                timeout=_ANSWER_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SpdToolsError(f"scancel cannot be run here ({error}); run this on a login node.") from None
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
            raise SpdToolsError(f"SLURM did not cancel the job ({said}); try again.")
