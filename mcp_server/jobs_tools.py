"""Tools that start long work and look after it."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from mcp_server.answers import QUOTED, capped, inert, quoted, table
from mcp_server.parameters import MAX_NAME, MAX_TEXT, OptionalText
from mcp_server.tools import READS, STARTS, tool
from spd_tools.errors import SpdToolsError
from spd_tools.launch.harvest import start_harvest
from spd_tools.launch.logs import log_path, log_tail, newest_log
from spd_tools.launch.profiles import load_profile, profile_names
from spd_tools.launch.status import Job, StepView, TaskView, job_status, list_jobs
from spd_tools.render.jobs import active_step, step_progress, step_summary

_LISTED = 20
_RANKS = 32
_NAME = Field(max_length=MAX_NAME)


class Jobs:
    """Harvests that run on their own."""

    def tools(self) -> list[Tool]:
        """All of them."""
        return [
            tool(self.harvest_start, "Start a harvest", STARTS),
            tool(self.job_status, "State of jobs", READS),
        ]

    def harvest_start(
        self,
        reference: Annotated[
            str,
            Field(
                min_length=1,
                max_length=4096,
                description="folder or checkpoint of an SPD run, wandb:ENTITY/PROJECT/RUN_ID, planted[:SEED] or demo",
            ),
        ],
        n_batches: Annotated[
            int | Literal["all"], Field(description='batches to count, at least 1, or "all" rows of the data set')
        ],
        batch_size: Annotated[int, Field(ge=1, le=1_000_000, description="rows per batch")],
        data: Annotated[OptionalText, _NAME, Field(description="data set; default: what it was trained on")] = "",
        split: Annotated[OptionalText, _NAME] = "",
        column: Annotated[OptionalText, _NAME] = "",
        seq_len: Annotated[int | None, Field(ge=1, description="positions per row; default: as trained")] = None,
        tokenizer: Annotated[OptionalText, _NAME] = "",
        device: Annotated[
            OptionalText, _NAME, Field(description="cpu, cuda or cuda:N; default: CUDA where there is one")
        ] = "",
        threshold: Annotated[float | None, Field(description="fires strictly above; default: the run's own")] = None,
        seed: Annotated[int, Field(ge=0, lt=2**63, description="of row order and sampling")] = 0,
        n_gpus: Annotated[
            int, Field(ge=1, le=10_000, description="workers, a GPU each; on a machine without any: processes")
        ] = 1,
        slurm: Annotated[bool, Field(description="submit to the cluster that the server's machine belongs to")] = False,
        profile: Annotated[
            OptionalText,
            _NAME,
            Field(description="SLURM profile that comes along, by name; default: SPD_SLURM_PROFILE"),
        ] = "",
    ) -> str:
        """Start counting what every component of a run does, in one pass over data; returns a job id at once.

        The job's processes are its own: it goes on when this server or the conversation ends, and takes from seconds
        (demo) to hours. It uses the CPU or GPUs of the server's machine, or those of a SLURM cluster, and may download
        the run and its data set. The same request again continues an interrupted harvest, reports a finished one, or
        returns the job that is working on it. Next: job_status with the id until it is finished, then runs.
        """
        from spd_tools.harvest import HarvestRequest

        if isinstance(n_batches, int) and n_batches < 1:
            raise SpdToolsError(f'n_batches is {n_batches}; give a number of at least 1, or "all".')
        request = HarvestRequest(
            run=reference,
            n_batches=None if n_batches == "all" else n_batches,
            batch_size=batch_size,
            data=data or None,
            split=split or None,
            column=column or None,
            seq_len=seq_len,
            tokenizer=tokenizer or None,
            device=device or None,
            threshold=threshold,
            seed=seed,
            world_size=n_gpus,
        )
        if profile and not slurm:
            raise SpdToolsError(f"profile {profile!r} is for a cluster; add slurm=true or leave it out.")
        if profile and profile not in profile_names():
            # A profile's set-up lines are shell: which file they come from is not for a model to choose.
            raise SpdToolsError(
                f"There is no profile {profile!r}; take one of {', '.join(profile_names())}, or name a file of your "
                "own in SPD_SLURM_PROFILE where the server is started."
            )
        job = start_harvest(request, slurm=load_profile(profile or None) if slurm else None)
        return f"{_page(job)}\nNext: job_status with job_id={job.id}."

    def job_status(
        self,
        job_id: Annotated[
            OptionalText, _NAME, Field(description="as harvest_start returned it; default: list all jobs")
        ] = "",
    ) -> str:
        """State of one job, its progress rank by rank, and the end of a log.

        pending, running, finished, failed (it says why in one sentence), lost (its process was killed or ran out of
        memory, without a word), cancelled, or skipped (something before it did not finish). What a worker had saved is
        never lost: harvest_start with the same parameters goes on from there, and so does `spd-tools jobs retry ID` in
        a terminal. Progress is reported every few seconds. Without job_id: the newest jobs.
        """
        if job_id:
            return _page(job_status(job_id))
        jobs = list_jobs()
        if not jobs:
            return "No job has been started."
        rows = [[job.id, job.status, inert(job.subject, 80), _progress(active_step(job))] for job in jobs[:_LISTED]]
        more = f"\n{len(jobs) - _LISTED} older ones are not shown." if len(jobs) > _LISTED else ""
        return capped(table(["job", "state", "of", "progress"], rows) + more, "Ask for one by its job_id.")


def _progress(step: StepView | None) -> str:
    if step is None:
        return ""
    return " ".join(filter(None, (f"{step.name}:", step_progress(step), step_summary(step))))


def _page(job: Job) -> str:
    seconds = (job.ended or time.time()) - job.created
    where = "the SLURM cluster" if job.executor == "slurm" else "the server's machine"
    lines = [f"Job {job.id}: {job.status} after {seconds:.0f} s, on {where}."]
    if job.error is not None:
        lines.append(f"What went wrong: {inert(job.error, MAX_TEXT)}")
    if job.status in ("failed", "lost", "cancelled"):
        lines.append("harvest_start with the same parameters goes on from what its workers saved.")
    if job.result is not None and {"run_id", "harvest_id"} <= job.result.keys():
        run, harvest = inert(str(job.result["run_id"]), 200), inert(str(job.result["harvest_id"]), 200)
        lines.append(f"Harvest {harvest} of run {run} is ready: find_components with run={run}.")
    lines.append(_ranks(job))
    if (newest := newest_log(job)) is not None:
        path = log_path(job, *newest)
        log = "\n".join(quoted(line, 500) for line in log_tail(path).splitlines()[-20:])
        lines.append(f"End of the log of {newest[0]}, rank {newest[1]} ({inert(str(path), 500)}). {QUOTED}\n{log}")
    return "\n".join(lines)


def _ranks(job: Job) -> str:
    """A table of the tasks; of many, those that have finished or wait are only counted."""
    rows: list[list[str]] = []
    hidden: list[str] = []
    for step in job.steps:
        shown = list(step.tasks)
        if len(shown) > _RANKS:
            shown = [task for task in shown if task.status not in ("finished", "pending")][:_RANKS]
            hidden.append(f"{step.name}: {step_summary(step)}")
        rows += [_row(step, task) for task in shown]
    found = table(["step", "rank", "state", "done", "per second", "why"], rows)
    return "\n".join([found, *hidden])


def _row(step: StepView, task: TaskView) -> list[str]:
    done = "" if task.done is None else f"{task.done:,} of {task.total or 0:,} {task.unit or ''}".strip()
    rate = "" if task.rate is None else f"{task.rate:.3g}"
    return [step.name, str(task.rank), task.status, done, rate, inert(task.why or "", MAX_TEXT)]
